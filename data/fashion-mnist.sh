#!/bin/sh
# Import fashion_mnist, or cluttered_fashion, which is drawn from it: `sh data/fashion-mnist.sh DATASET [FOLDER]`.
# The source is the folder, or Debian's package, which is downloaded and unpacked, not installed.
set -eu
dataset=$1
if [ -f "data/$dataset/train-00000-of-00001.parquet" ]; then
    echo "data/$dataset is there"
    exit 0
fi
files="train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte"
source=${2:-/usr/share/datasets/fashion-mnist}
if [ ! -d "$source" ]; then
    aside=$(mktemp -d)
    chmod 755 "$aside" # apt downloads as a user of its own
    trap 'rm -rf "$aside"' EXIT
    if (cd "$aside" && apt-get download -qq dataset-fashion-mnist) && dpkg-deb -x "$aside"/dataset-fashion-mnist_*.deb "$aside"; then
        source=$aside/usr/share/datasets/fashion-mnist
    else
        echo "Debian's package dataset-fashion-mnist is not to be had here (apt-get update may help)." >&2
        echo "Get the four files ($files, as .gz) from github.com/zalandoresearch/fashion-mnist, then:" >&2
        echo "  make $(echo "$dataset" | tr _ -) FASHION_MNIST=/folder/with/them" >&2
        exit 1
    fi
fi
quee data add "$dataset" "$source"
