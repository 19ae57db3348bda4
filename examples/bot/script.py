"""Finds the replies to the lines of a chat in pairs of line and reply, without network or clock.

A line gets the reply of the script's line that means the same, as judged by the gateway, and never the reply of its
opposite, however near their vectors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danmaku_client import SimilarMatch

PAUSE_S = 30.0  # before the same reply is repeated


@dataclass(frozen=True)
class Reply:
    line: str
    says: str


class Script:
    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.heard, self._says = [heard for heard, _ in pairs], [says for _, says in pairs]
        self._said_at: dict[str, float] = {}

    def reply(self, line: str, at_s: float, matches: Sequence[SimilarMatch]) -> Reply | None:
        """Returns the reply to a line, given the lines of `heard` that are nearest to it, by their places."""
        same = next((match for match in matches if match.relation == "same"), None)
        if same is None:
            return None
        says = self._says[int(same.id)]
        if at_s - self._said_at.get(says, -PAUSE_S) < PAUSE_S:
            return None
        self._said_at[says] = at_s
        return Reply(line, says)
