# What VS Code's Remote-SSH feeds to `ssh -T -D PORT HOST bash`, step by step as its log shows it: find the
# platform, take a lock, unpack the server that was copied here (in place of its download), start it in the
# background, wait for its port, and print what the editor needs. Standard input stays open afterwards.
id=SCRIPT_ID
commit=COMMIT_ID
export VSCODE_AGENT_FOLDER="$HOME/.vscode-server"
folder="$VSCODE_AGENT_FOLDER/bin/$commit"
log="$VSCODE_AGENT_FOLDER/.$commit.log"
pidfile="$VSCODE_AGENT_FOLDER/.$commit.pid"
tokenfile="$VSCODE_AGENT_FOLDER/.$commit.token"
echo "$id: running"
platform=$(uname -s)
case $platform in Linux) platform=linux ;; *) echo "$id: unsupported $platform"; exit 1 ;; esac
arch=$(uname -m)
case $arch in
  x86_64) vscode_arch=x64 ;;
  aarch64 | arm64) vscode_arch=arm64 ;;
  *) echo "$id: unsupported $arch"; exit 1 ;;
esac
os_id=$(grep -i '^ID=' /etc/os-release 2>/dev/null | sed 's/^ID=//; s/"//g')
umask 077
mkdir -p "$folder" || { echo "$id: cannot create $folder"; exit 34; }
lock="$folder/vscode-remote-lock.$USER.$commit"
if command -v flock >/dev/null 2>&1; then
  exec 200>"$lock"
  flock -w 10 200 || { echo "$id: another install holds the lock"; exit 24; }
else
  touch "$lock"
fi
if [ ! -f "$folder/bin/code-server" ]; then
  archive="$VSCODE_AGENT_FOLDER/vscode-server-linux-$vscode_arch.tar.gz"
  attempts=0
  while [ ! -f "$archive.done" ]; do # the editor copies it with scp, and then says that it is there
    attempts=$((attempts + 1))
    [ $attempts -lt 100 ] || { echo "$id: the server never came"; exit 25; }
    sleep .1
  done
  tar -xf "$archive" -C "$folder" --strip-components 1 || { echo "$id: tar failed"; exit 37; }
  rm -f "$archive" "$archive.done"
fi
printenv 2>/dev/null | sed 's/^/    /'
if [ -f "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null; then
  echo "Found running server"
else
  printf %s "$(cat /proc/sys/kernel/random/uuid 2>/dev/null || echo 00000000-0000-4000-8000-000000000000)" >"$tokenfile"
  rm -f "$log"
  "$folder/bin/code-server" --start-server --host=127.0.0.1 --accept-server-license-terms \
    --enable-remote-auto-shutdown --port=0 --connection-token-file "$tokenfile" &>"$log" </dev/null &
  echo $! >"$pidfile"
  echo "Spawned remote server: $!"
fi
stop=$((SECONDS + 15))
listening_on=""
while ((SECONDS < stop)); do
  listening_on=$(cat "$log" 2>/dev/null | grep -a -E 'Extension host agent listening on .+' | sed 's/Extension host agent listening on //')
  [ -z "$listening_on" ] || break
  sleep .03
done
echo "$id: start"
echo "listeningOn==$listening_on=="
echo "osReleaseId==$os_id=="
echo "arch==$arch=="
echo "vscodeArch==$vscode_arch=="
echo "tmpDir==${XDG_RUNTIME_DIR:-/tmp}=="
echo "platform==$platform=="
echo "connectionToken==$(cat "$tokenfile")=="
echo "$id: end"
