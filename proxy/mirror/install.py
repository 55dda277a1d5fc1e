"""Installing a plan, checking it, and restoring what was there.

Always in this order: what will be replaced is recorded, durably, and then the files are written. So a crash at any
point leaves either the old file or the new one, and a record that knows both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from proxy.mirror.clients import Plan
from proxy.mirror.disk import Snapshot, drop, locked, look, make_folders, missing_folders, put
from proxy.mirror.pieces import Merged, Piece, Refused, same, without
from proxy.mirror.record import Entry, Record, fingerprint

State = Literal["installed", "unchanged", "there", "missing", "restored", "removed", "left", "refused", "failed"]

GOOD: Final = frozenset({"installed", "unchanged", "there", "restored", "removed"})
ACTIONS: Final = frozenset({"installed", "restored", "removed"})

_CHANGED: Final = (
    "somebody has changed Millpond's own part of it since it was installed; left as it is: take that out by hand, then "
    "again"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of one file. `there` is what somebody else wrote, and right."""

    path: Path
    state: State
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.state in GOOD

    @property
    def acted(self) -> bool:
        return self.state in ACTIONS


@dataclass(frozen=True, slots=True)
class _Step:
    """One file that shall be ours: what is there, what it gets. Without `entry`: somebody else's, and right."""

    current: Snapshot | None
    entry: Entry | None
    merged: Merged

    @property
    def done(self) -> bool:
        return self.current is not None and self.current.data == self.merged.data

    @property
    def content(self) -> Snapshot:
        """With the owner and the mode that it has or had."""
        was = self.current or (self.entry and self.entry.before)
        return replace(was, data=self.merged.data) if was else Snapshot(self.merged.data)


class Installation:
    """A client's files below `directory`."""

    def __init__(self, client: str, directory: Path) -> None:
        self._client = client
        self._directory = directory

    def install(self, plan: Plan) -> list[Outcome]:
        """Write what `plan` has, and restore what an earlier one had and this one has not.

        Raises:
            Refused: nothing could be done at all.
            OSError: the directory or the record cannot be written.
        """
        made = make_folders(self._directory)
        with locked(self._directory):
            record = Record.load(self._directory, self._client)
            record.remember(made)
            wanted = {piece.path for piece in plan.pieces}
            outcomes = [self._undo(record, path) for path in reversed(list(record.entries)) if path not in wanted]
            steps: dict[str, _Step] = {}
            for piece in plan.pieces:
                try:
                    steps[piece.path] = step = self._step(plan, piece, record)
                except (Refused, OSError) as error:
                    outcomes.append(self._problem(piece.path, error))
                    continue
                if step.entry:
                    record.entries[piece.path] = step.entry
                    record.remember(missing_folders((self._directory / piece.path).parent))
            record.host = plan.address.host
            record.save()
            outcomes += [self._write(path, step) for path, step in steps.items()]
            for path, step in steps.items():
                if self._holds(path, step):
                    record.settle(path, step.entry)
            record.finish()
        return outcomes

    def host(self) -> str:
        """The Millpond that was installed last; empty where none is."""
        return Record.load(self._directory, self._client).host

    def check(self, plan: Plan) -> list[Outcome]:
        """Whether all is as `install` would leave it. Changes nothing."""
        if not self._directory.is_dir():
            return [Outcome(self._directory / piece.path, "missing", "not installed") for piece in plan.pieces]
        record = Record.load(self._directory, self._client)
        outcomes = []
        for piece in plan.pieces:
            try:
                step = self._step(plan, piece, record)
            except (Refused, OSError) as error:
                outcomes.append(self._problem(piece.path, error))
                continue
            path = self._directory / piece.path
            if step.done:
                outcomes.append(Outcome(path, "unchanged" if step.entry else "there"))
            else:
                detail = "changed since it was installed" if piece.path in record.entries else "not installed"
                outcomes.append(Outcome(path, "missing", detail))
        return outcomes

    def remove(self) -> list[Outcome]:
        """Restore what was there. What somebody has changed meanwhile keeps that, without our part.

        Raises: as `install`.
        """
        if not self._directory.is_dir():
            return []
        with locked(self._directory):
            record = Record.load(self._directory, self._client)
            outcomes = [self._undo(record, path) for path in reversed(list(record.entries))]
            record.finish()
        return outcomes

    def _step(self, plan: Plan, piece: Piece, record: Record) -> _Step:
        current = look(self._directory, piece.path)
        entry = record.entries.get(piece.path)
        base = _base(current, entry)
        if obstacle := plan.obstacle(piece):
            raise Refused(obstacle)
        merged = piece.into(base.data if base else None)
        if merged.undo is None:
            # An entry stays what it is: our part stands there, in somebody's own words.
            return _Step(current, entry if base is current and entry else None, merged)
        before = (fingerprint(merged.data), *(entry.written if entry else ()))
        return _Step(current, Entry(base, tuple(dict.fromkeys(before)), merged.undo), merged)

    def _write(self, path: str, step: _Step) -> Outcome:
        file = self._directory / path
        if step.done:
            return Outcome(file, "unchanged" if step.entry else "there")
        try:
            make_folders(file.parent)
            put(file, step.content)
        except OSError as error:
            return self._problem(path, error)
        kept = step.entry is not None and step.entry.before is not None
        return Outcome(file, "installed", "what was there is kept, and comes back with --remove" if kept else "")

    def _holds(self, path: str, step: _Step) -> bool:
        try:
            found = look(self._directory, path)
        except (Refused, OSError):
            return False
        return found is not None and found.data == step.merged.data

    def _undo(self, record: Record, path: str) -> Outcome:
        """Restore one file; the record forgets it when there is nothing left to do."""
        file, entry = self._directory / path, record.entries[path]
        try:
            current = look(self._directory, path)
            target, lost = _restored(current, entry)
            if lost and current and record.host.encode() in current.data:
                return Outcome(file, "left", _CHANGED)
            if target is None:
                drop(file)
            elif target != current:
                make_folders(file.parent)  # which somebody may have removed as well
                put(file, target)
        except (Refused, OSError) as error:
            return self._problem(path, error)
        del record.entries[path]
        if lost:
            return Outcome(file, "restored", "somebody has changed it, and it names no Millpond any more")
        return Outcome(file, "removed" if target is None else "restored")

    def _problem(self, path: str, error: Refused | OSError) -> Outcome:
        if isinstance(error, Refused):
            return Outcome(self._directory / path, "refused", str(error))
        return Outcome(self._directory / path, "failed", error.strerror or str(error))


def _base(current: Snapshot | None, entry: Entry | None) -> Snapshot | None:
    """What somebody else has there, without our part."""
    if entry is None:
        return current
    if current is None or entry.is_ours(current.data):
        return entry.before
    return _restored(current, entry)[0]


def _restored(current: Snapshot | None, entry: Entry) -> tuple[Snapshot | None, bool]:
    """What is there without us; and whether somebody has changed it so that our part is not to be found any more."""
    before = entry.before
    if current is None or entry.is_ours(current.data) or (before and before.data == current.data):
        return before, False
    rest = without(current.data, entry.undo)
    if rest is None:
        return current, True
    if before and same(rest, before.data, entry.undo):
        return before, False
    return (replace(current, data=rest) if rest or before else None), False
