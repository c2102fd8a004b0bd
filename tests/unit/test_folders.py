"""A folder that is written whole or not at all."""

import pytest

from difftools.folders import whole


def write(out, fail=False):
    with whole(out) as part:
        (part / "a.txt").write_text("a")
        assert not (out / "a.txt").exists()
        if fail:
            raise KeyboardInterrupt


@pytest.mark.parametrize("there", [False, True], ids=["absent", "empty"])
def test_the_folder_appears_whole(tmp_path, there):
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
    write(out)
    assert [f.name for f in out.iterdir()] == ["a.txt"] and [*out.parent.iterdir()] == [out]


def test_an_error_or_an_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", fail=True)
    assert [*tmp_path.iterdir()] == []


def test_what_others_wrote_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError), whole(out):
        out.mkdir()
        (out / "theirs.txt").write_text("b")
    assert [f.name for f in tmp_path.rglob("*")] == ["out", "theirs.txt"]
