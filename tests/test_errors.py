"""What a user can mend is one class, and each kind is the built-in error that Python programs expect."""

from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError

from hf_immunize import NonFiniteLossError, errors


@pytest.mark.parametrize(
    ("kind", "built_in"),
    [
        ("InputError", ValueError),
        ("InputTypeError", TypeError),
        ("MissingFileError", FileNotFoundError),
        ("OutputExistsError", FileExistsError),
        ("OutputError", OSError),
        ("MissingPackageError", ModuleNotFoundError),
        ("HubConnectionError", ConnectionError),
    ],
)
def test_each_kind_is_a_mistake_of_the_user_and_a_built_in_error(kind, built_in):
    kind = getattr(errors, kind)
    assert issubclass(kind, errors.UserError)
    with pytest.raises(built_in, match="what to do"):
        raise kind("what to do")


def test_all_kinds_are_offered():
    kinds = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.UserError)}
    assert kinds == {name for name in errors.__all__ if name[0].isupper()}
    assert issubclass(NonFiniteLossError, errors.UserError)


def test_the_nearest_name_is_asked_for_where_one_is_near():
    known = ["primary", "harmful", "benign"]
    assert errors.did_you_mean("primray", known) == " Did you mean 'primary'?"
    assert errors.did_you_mean("x", known) == ""
    assert errors.did_you_mean("harm", known, cutoff=0.0) == " Did you mean 'harmful'?"


class Broken(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        try:
            raise OSError("cut off")
        except OSError as error:
            raise errors.InputError(f"Row {index}: it is cut off. Mend it.") from error


def test_in_a_worker_the_message_is_the_same_without_a_traceback():
    loader = torch.utils.data.DataLoader(Broken(), num_workers=1)
    with pytest.raises(errors.InputError) as raised:
        next(iter(loader))
    assert str(raised.value) == "Row 0: it is cut off. Mend it."


@pytest.mark.parametrize(
    "raised",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_what_cannot_be_written_is_one_line_whoever_says_so(raised):
    with (
        pytest.raises(errors.OutputError, match=r"^there could not be written \(.*space.*\)\. Make room\.$"),
        errors.writing("there", "Make room."),
    ):
        raise raised


@pytest.mark.parametrize("raised", [RuntimeError("a fault of ours"), errors.InputError("a mistake")])
def test_what_is_no_matter_of_writing_stays_what_it_is(raised):
    with pytest.raises(type(raised), match=str(raised)), errors.writing("there", "Make room."):
        raise raised
