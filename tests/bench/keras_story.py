"""A Keras network that was stopped early, from its files to a catalogue: times and coverage.

    KERAS_BACKEND=jax python tests/bench/keras_story.py FOLDER [full]

Keras, which symspec does not need, trains a network on generated stars, z-scored labels, until
stars set aside are predicted worse. Then three commands are run, each a process of its own:
`symspec fit`, `symspec errors` of 1,000 other stars with a report, and `symspec jacobian`. Printed
are their seconds (wall clock and processor) and peaks of memory, and for each label which shares of
the other stars are within their intervals of 68 and 95 %. The network has the layers
713-256-128-64-32-3 and 3,000 stars; with `full` 7213-2048-1024-512-256-128-32-3 and 4,000. What is
in FOLDER is not made again, but by the commands.
"""

import os
import sys
import time
from pathlib import Path

import h5py
import numpy as np

import symspec as ss
from symspec.files.catalogue_reading import read_catalogue

SIZES = {
    "small": (713, 256, 128, 64, 32, 3),
    "full": (7213, 2048, 1024, 512, 256, 128, 32, 3),
}
N_TRAIN = {"small": 3000, "full": 4000}
N_TEST = 1000
MOST_EPOCHS = 300
PATIENCE = 10  # epochs without less loss of the stars set aside
LEARNING_RATE = 1e-3


def write_stars(path, stars):
    with h5py.File(path, "w") as file:
        for name in ("flux", "ivar", "wavelength", "labels"):
            file[name] = getattr(stars, name)
        for name in ("label_names", "label_units", "ids"):
            file[name] = [str(word) for word in getattr(stars, name)]


def make_stars(folder, size):
    n = N_TRAIN[size]
    stars = ss.datasets.generated_stars(
        n + N_TEST, n_pixels=SIZES[size][0], rng=np.random.default_rng(0)
    )
    write_stars(folder / "train.h5", stars[:n])
    write_stars(folder / "test.h5", stars[n:])


def train(folder, size):
    """As many do: flux as it is, labels as z-scores, the weights of the best epoch."""
    import keras

    keras.utils.set_random_seed(0)
    with h5py.File(folder / "train.h5") as file:
        X, Y = file["flux"][:], file["labels"][:]
    n_pixels, *widths, n_labels = SIZES[size]
    layers = [keras.layers.Dense(width, activation="relu") for width in widths]
    net = keras.Sequential([keras.Input((n_pixels,)), *layers, keras.layers.Dense(n_labels)])
    net.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss="mse")
    stop = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
    history = net.fit(
        X, (Y - Y.mean(axis=0)) / Y.std(axis=0),
        epochs=MOST_EPOCHS, batch_size=64, validation_split=0.1, callbacks=[stop], verbose=0,
    )  # fmt: skip
    net.save(folder / "net.keras")
    losses = history.history["val_loss"]
    print(f"stopped after {len(losses)} epochs, the best loss {min(losses):.4f}")


def run(folder, *words):
    """Run a command, and print what it took."""
    begin = time.perf_counter()
    process = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "symspec.cli", *map(str, words)], os.environ
    )
    _, status, used = os.wait4(process, 0)
    if status != 0:
        raise SystemExit(f"symspec {words[0]} failed")
    seconds = time.perf_counter() - begin
    processor = used.ru_utime + used.ru_stime
    gigabytes = used.ru_maxrss / 2**20
    print(
        f"symspec {words[0]}: {seconds:.0f} s, of processors {processor:.0f} s, {gigabytes:.1f} GB",
        flush=True,
    )


def print_coverage(folder):
    catalogue = read_catalogue(folder / "out.fits")
    with h5py.File(folder / "test.h5") as file:
        truth = file["labels"][:]
    prediction = catalogue.prediction
    for level, shares in zip((68, 95), ss.coverage(prediction, truth), strict=True):
        listed = ", ".join(f"{share:.3f}" for share in shares)
        print(f"{level} % intervals hold {listed} of {', '.join(prediction.label_names)}")
    z = (prediction.labels - truth) / prediction.errors
    print("standard deviation of z:", z.std(axis=0).round(3))
    print("scatter:", ss.sigma_mad(prediction.labels - truth).round(4))
    flagged = [f"{np.mean((prediction.flags & flag) > 0):.1%} {flag.name}" for flag in ss.Flag]
    print("flags:", ", ".join(words for words in flagged if not words.startswith("0.0%")))


def main(folder, size="small"):
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    if not (folder / "test.h5").exists():
        make_stars(folder, size)
    if not (folder / "net.keras").exists():
        train(folder, size)
    net, training, test, model = (
        folder / name for name in ("net.keras", "train.h5", "test.h5", "model.h5")
    )
    run(folder, "fit", net, training, model, "--overwrite")
    catalogue = (folder / "out.fits", "--report", folder / "out.html", "--overwrite")
    run(folder, "errors", model, test, *catalogue)
    run(folder, "jacobian", model, test, folder / "jacobian.h5", "--overwrite")
    print_coverage(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
