# Runs in the virtual machine, as a service; what it prints comes out of the serial console.
set -u
chmod 711 /root
printf 'qemu: %s, %s, cgroup %s\n' "$(uname -r)" "$(systemctl --version | sed -n 1p)" "$(stat -fc %T /sys/fs/cgroup)"
if [ -s /checkout/arguments ] && [ "$(head -c 1 /checkout/arguments)" != "" ]; then
  set -- $(cat /checkout/arguments)
else
  set -- tests/qemu tests/sandbox/test_cgroups.py tests/sandbox/test_cgroup2.py tests/sandbox/test_canary.py \
    tests/sandbox/test_devices_inside.py tests/hostile/test_limits.py tests/e2e/test_join.py
fi
python3 -m pytest -q -p no:cacheprovider --durations=5 "$@"
printf 'qemu-result: %s\n' $?
