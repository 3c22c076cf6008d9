"""Train a small neural network to read handwritten-like digits, with NumPy alone.

The data is made here: ten glyphs, shifted, stretched and drowned in noise. The loss is printed as
it falls and the model is left in `model.npz`, which comes back with the results.

    dbc run --for 5m -- python3 train.py --seconds 10
"""

import argparse
import time

import numpy as np

GLYPHS = """
.###. ..#.. .###. .###. ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# #...# ..##. #.... .#... ....# #...# #...#
#..## ..#.. ....# ...#. .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ..##. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""
SIDE = 16


def make_digits(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` noisy images, one per row, and the digit that each shows."""
    rows = [line.split() for line in GLYPHS.strip().splitlines()]
    glyphs = np.array([[[c == "#" for c in row[d]] for row in rows] for d in range(10)], np.float32)
    glyphs = glyphs.repeat(2, axis=1).repeat(2, axis=2)
    labels = rng.integers(0, 10, count)
    images = np.zeros((count, SIDE, SIDE), np.float32)
    height, width = glyphs.shape[1:]
    place = rng.integers(0, 12, count)
    for down in range(SIDE - height + 1):
        for right in range(0, SIDE - width + 1, 2):
            here = place == down * 4 + right // 2
            images[here, down : down + height, right : right + width] = glyphs[labels[here]]
    images += rng.normal(0, 0.7, images.shape).astype(np.float32)
    return images.reshape(count, -1), labels


class Network:
    """Two layers, trained by stochastic gradient descent with momentum."""

    def __init__(self, sizes: tuple[int, int, int], rng: np.random.Generator) -> None:
        scale = [np.sqrt(2 / size) for size in sizes]
        self.weights = [
            (rng.normal(0, scale[i], (sizes[i], sizes[i + 1]))).astype(np.float32) for i in (0, 1)
        ]
        self.biases = [np.zeros(size, np.float32) for size in sizes[1:]]
        self.speed = [np.zeros_like(p) for p in (*self.weights, *self.biases)]

    def probabilities(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden = np.maximum(images @ self.weights[0] + self.biases[0], 0)
        scores = hidden @ self.weights[1] + self.biases[1]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, scores / scores.sum(axis=1, keepdims=True)

    def learn(self, images: np.ndarray, labels: np.ndarray, rate: float) -> float:
        """One step on a batch; returns its mean cross-entropy."""
        hidden, guess = self.probabilities(images)
        loss = float(-np.log(guess[np.arange(len(labels)), labels] + 1e-9).mean())
        error = guess.copy()
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        back = (error @ self.weights[1].T) * (hidden > 0)
        slopes = [images.T @ back, hidden.T @ error, back.sum(axis=0), error.sum(axis=0)]
        for value, speed, slope in zip(
            (*self.weights, *self.biases), self.speed, slopes, strict=True
        ):
            speed *= 0.9
            speed -= rate * slope
            value += speed
        return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="how long to train")
    parser.add_argument("--hidden", type=int, default=128)
    options = parser.parse_args()
    rng = np.random.default_rng(2026)
    images, labels = make_digits(24_000, rng)
    exam, answers = make_digits(4_000, rng)
    network = Network((SIDE * SIDE, options.hidden, 10), rng)
    print(f"training on {len(labels)} digits for {options.seconds:g} s", flush=True)
    began, epoch, loss = time.monotonic(), 0, 0.0
    while time.monotonic() - began < options.seconds:
        order = rng.permutation(len(labels))
        losses = [
            network.learn(images[part], labels[part], 0.05)
            for part in np.array_split(order, len(order) // 64)
        ]
        epoch, loss = epoch + 1, float(np.mean(losses))
        right = (network.probabilities(exam)[1].argmax(axis=1) == answers).mean()
        print(f"epoch {epoch:3d}  loss {loss:.4f}  exam {right:.1%}", flush=True)
    np.savez(
        "model.npz",
        w0=network.weights[0], w1=network.weights[1], b0=network.biases[0], b1=network.biases[1],
    )  # fmt: skip
    print(f"final loss {loss:.6f}; the model is in model.npz", flush=True)


if __name__ == "__main__":
    main()
