# SPDX-License-Identifier: GPL-2.0-or-later
"""Control files of the kernel: whole reads, single writes, and errnos that say what they mean."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from nlmfo.kernel.files import PROC, ControlError, Meaning, ProcFiles, explained


def test_files_are_named_by_their_whole_path_below_whatever_root(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/file").write_bytes(b"content")
    files = ProcFiles(tmp_path)
    assert files.read(Path("/proc/file")) == b"content"
    assert files.exists(Path("/proc/file"))
    assert not files.exists(Path("/proc/other"))


def test_a_file_is_read_to_its_end_however_long(tmp_path: Path) -> None:
    content = os.urandom(300_001)
    (tmp_path / "long").write_bytes(content)
    assert PROC.read(tmp_path / "long") == content


def test_the_kernels_own_files_are_read_although_they_have_no_size() -> None:
    assert PROC.read(Path("/proc/self/comm")) == Path("/proc/self/comm").read_bytes() != b""


def test_an_answer_is_read_from_the_descriptor_that_the_question_was_written_to(tmp_path: Path) -> None:
    """A plain file has no answers; what comes is what stands behind the question."""
    (tmp_path / "file").write_bytes(b"........rest")
    assert PROC.ask(tmp_path / "file", b"question") == b"rest"


def test_nothing_is_created_and_nothing_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PROC.write(tmp_path / "missing", b"1\n")
    (tmp_path / "file").write_bytes(b"12345")
    PROC.write(tmp_path / "file", b"ab")
    assert (tmp_path / "file").read_bytes() == b"ab345"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_was_taken_in_part_is_an_error_and_the_rest_is_not_sent_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    with pytest.raises(OSError, match="only a part"):
        PROC.write(tmp_path / "file", b"/srv/home\n")
    assert (tmp_path / "file").read_bytes() == b"/sr"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would be no shorter
    PROC.read(tmp_path / "file")
    PROC.write(tmp_path / "file", b"2")
    PROC.ask(tmp_path / "file", b"3")
    with pytest.raises(IsADirectoryError):
        PROC.read(tmp_path)
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def explain(error: OSError, meanings: dict[int, Meaning]) -> ControlError:
    with pytest.raises(ControlError) as raised, explained("starting nfsd", meanings):
        raise error
    return raised.value


def test_an_errno_is_explained_as_it_is_meant_for_the_file() -> None:
    error = explain(OSError(errno.EBUSY, "busy"), {errno.EBUSY: Meaning("nfsd runs", "stop it")})
    assert (str(error), error.hint, error.number) == ("starting nfsd: nfsd runs (EBUSY)", "stop it", errno.EBUSY)


@pytest.mark.parametrize(
    ("number", "said", "hint"),
    [
        (errno.EACCES, "permission denied (EACCES)", "root"),
        (errno.EROFS, "/proc is mounted read-only here (EROFS)", "container"),
        (errno.ENOENT, "this kernel does not have it here (ENOENT)", "modprobe"),
    ],
)
def test_an_errno_that_means_the_same_everywhere_needs_no_telling(number: int, said: str, hint: str) -> None:
    error = explain(OSError(number, "whatever"), {})
    assert str(error) == f"starting nfsd: {said}"
    assert hint in str(error.hint)


def test_an_errno_that_nobody_expected_is_given_as_it_is() -> None:
    assert str(explain(OSError(errno.EXDEV, ""), {})) == "starting nfsd: Invalid cross-device link (EXDEV)"
    assert "(524)" in str(explain(OSError(524, "ENOTSUPP, which is the kernel's own"), {}))


def test_a_kernel_that_does_not_answer_is_not_taken_for_a_failing_disk() -> None:
    assert explain(TimeoutError("timed out"), {}).number == errno.ETIMEDOUT


def test_what_is_no_answer_of_the_kernel_is_left_alone() -> None:
    with pytest.raises(ValueError, match="odd"), explained("starting nfsd"):
        raise ValueError("odd")


def test_the_explanation_survives_the_way_out_of_a_child_process() -> None:
    error = explain(OSError(errno.EBUSY, "busy"), {errno.EBUSY: Meaning("nfsd runs", "stop it")})
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, ControlError)
    assert (str(again), again.hint, again.number) == (str(error), error.hint, errno.EBUSY)
