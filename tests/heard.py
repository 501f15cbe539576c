"""A reporter and a progress that keep what they are told."""

from __future__ import annotations

from rich.text import Text

from micro.runtime.progress import Reporter


class Heard(Reporter):
    """Keeps the lines that are said, without their markup."""

    def __init__(self):
        super().__init__(False)
        self.said: list[str] = []

    def say(self, text):
        self.said.append(Text.from_markup(text).plain)


class Counted:
    """A progress that keeps the shares done, by what is worked at."""

    def __init__(self):
        self.shares: dict[str, list[float]] = {}

    def __call__(self, done, total, what=""):
        self.shares.setdefault(what, []).append(done / total)

    def rise(self):
        """Whether no share falls behind the one before it."""
        return all(shares == sorted(shares) for shares in self.shares.values())
