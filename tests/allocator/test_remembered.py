"""What is remembered of texts: found by the text itself, and bounded by how long they are."""

from __future__ import annotations

from services.allocator.database.remembered import Remembered


def test_a_text_is_parsed_once_and_the_oldest_are_forgotten_beyond_the_bound() -> None:
    """However many texts there are, and however long each is: one longer than the bound is not kept at all."""
    parsed: list[str] = []

    def parse(text: str) -> int:
        parsed.append(text)
        return len(text)

    memory = Remembered(parse, most_chars=8)
    memory.keep("kept", 4)
    assert memory.read("kept") == 4
    assert parsed == []
    assert [memory.read(text) for text in ("ab", "abc", "abc", "kept")] == [2, 3, 3, 4]
    assert parsed == ["ab", "abc", "kept"]  # the third text was one too many, and the first was the oldest
    assert memory.read("longer than that") == memory.read("longer than that") == 16
    assert parsed[3:] == ["longer than that"] * 2
