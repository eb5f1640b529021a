"""Download of the published data files, once, into the user's cache."""

from pathlib import Path

from vanishing import _arguments
from vanishing._extras import needs
from vanishing.data.readers import DataError

# Where the files are published, and the MD5 sums published with them.
_SOURCES = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"},
    ),
}


@_arguments.checked
def fetch(name: str, base_url: str | None = None, cache: Path | None = None) -> Path:
    """The folder with a data set's published files, downloaded if it is not there yet.

    Args:
      name: "mnist", "fashion_mnist" or "cifar10".
      base_url: where the files lie; by default where they are published.
      cache: the folder to keep them in; by default the user's cache folder for `vanishing`.

    Raises:
      DataError: a file cannot be had, or has not the published checksum.
    """
    with needs("experiments"):
        import pooch

    url, files = _SOURCES[name]
    cache = Path(cache or pooch.os_cache("vanishing"))
    shelf = pooch.create(path=cache / name, base_url=base_url or url, registry=files)
    for file in files:
        unpack = pooch.Untar(extract_dir=".") if file.endswith(".tar.gz") else None
        try:
            shelf.fetch(file, processor=unpack, progressbar=True)
        except (OSError, ValueError) as error:  # no network, no such page, a wrong checksum
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{name} cannot be downloaded: {file} from {shelf.base_url} failed ({reason}); "
                "put the published files into a folder and name it with --data_dir."
            ) from None
    return cache / name
