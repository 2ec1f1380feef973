"""Errors of libraries on damaged files become one error, with the file's path."""

import pytest

from symspec.errors import FileFormatError, OptionError, ShapeError
from symspec.safety.file_formats import as_format_error, describe_start


def test_an_error_of_a_library_becomes_one_about_the_file():
    words = (
        r"stars\.h5 should be an HDF5 file in good order, got a truncated or damaged one"
        r" \(KeyError: 'flux'\): copy or write it again"
    )
    with (
        pytest.raises(FileFormatError, match=words) as error,
        as_format_error("stars.h5", "an HDF5 file"),
    ):
        {}["flux"]
    assert isinstance(error.value.__cause__, KeyError)


def test_errors_of_symspec_pass_as_they_are():
    with pytest.raises(OptionError, match=r"^give net=$"), as_format_error("net.h5", "a file"):
        raise OptionError("give net=")


def test_only_errors_that_are_asked_for_pass():
    with (
        pytest.raises(FileFormatError, match=r"damaged one \(the sizes differ\)"),
        as_format_error("net.h5", "a file", passing=(OptionError,)),
    ):
        raise ShapeError("the sizes differ")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"PK\x03\x04\x14\0\0\0", "zip"),
        (b"\0K\0\0\x80?\0\0", "perhaps a GRAMS file"),
        (b"SIMPLE  ", "starts with b'SIMPLE  '"),
    ],
)
def test_a_file_is_described_by_its_signature(start, words):
    assert words in describe_start(start)
