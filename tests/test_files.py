"""Files that are written whole or not at all, and JSON in them."""

from __future__ import annotations

import pytest

from minilm.files import read_json, replacing, write_json


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"β": [1, 2.5, None]})
    assert read_json(path) == {"β": [1, 2.5, None]}
    assert "β" in path.read_text(encoding="utf-8")
    for content, problem in ((b'{"a": ', "not valid JSON"), (b"", "not valid JSON"), (b"\xff\x00", "binary")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"config\.json: .*{problem}"):
            read_json(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_json(tmp_path / "nothing.json")
