"""Jobs that the tests run, as files of a workspace."""

from typing import Final

TRAIN: Final = """
import sys, time
import numpy as np

seed, seconds, code = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(seed)
x = rng.normal(size=(64, 4))
truth = np.array([1.0, -2.0, 3.0, 0.5])
y, w = x @ truth, np.zeros(4)
print("start", flush=True)
print("to stderr", file=sys.stderr, flush=True)
steps = 8
for step in range(steps):
    for _ in range(50):
        w -= 0.05 * x.T @ (x @ w - y) / len(x)
    print(f"step {step} loss {np.mean((x @ w - y) ** 2):.6f}", flush=True)
    time.sleep(seconds / steps)
np.save("model.npy", w)
open("sub/note.txt", "w").write("made by the job\\n")
print("end", flush=True)
sys.exit(code)
"""
"""`train.py SEED SECONDS CODE`: fit a line, print as it goes, leave `model.npy` and `sub/note.txt`."""

HOG: Final = """
import time
print("eating", flush=True)
kept = []
while True:
    kept.append(bytearray(b"x" * (16 << 20)))
    time.sleep(0.005)
"""
