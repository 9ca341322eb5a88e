"""The command line of the verb `registry`: one class for each action.

The parser is built for every verb, so an action imports what it needs (SQLAlchemy) when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backbone.console.options import argument, option, required
from backbone.console.verbs import OfGraft, Verb
from backbone.errors import InputError
from registry.budgets.place import UnderBudgets, budgets_for
from registry.place import Place

HELP = "Lists, compares, promotes and removes the versions of every task."


@dataclass(frozen=True, kw_only=True)
class Action(Verb):
    """An action on a registry and its store."""

    place: Place = field(default_factory=Place)


@dataclass(frozen=True, kw_only=True)
class OfTask:
    """The task that an action is about."""

    task: str = argument("name of the task")


@dataclass(frozen=True, kw_only=True)
class Logged:
    """The log's entry about a change of the live version."""

    reason: str = required("reason, for the log", nonblank=True)
    actor: str = option("", "who acts, for the log (default: user@machine)")


@dataclass(frozen=True, kw_only=True)
class Publish(OfGraft, UnderBudgets, Action, verb="registry publish"):
    task: str = option("", "task that gets a new version (default: the name in the graft)")
    parent: int | None = option(None, "number of the version that the graft was made from", min=1)

    def call(self) -> object:
        """Makes a graft the next version of a task."""
        from registry.verbs import publish

        signers = budgets_for(self.budgets, self.place.registry).signers
        return publish(self.place, self.graft, self.task, self.parent, signers)


@dataclass(frozen=True, kw_only=True)
class List(Action, verb="registry list"):
    task: str = argument("task whose versions are listed (default: the tasks themselves)", "")
    limit: int = option(50, "versions of the task in a page", min=1)
    before: int | None = option(None, "only versions of the task below this number, for the next page", min=1)

    def call(self) -> object:
        """Lists tasks with their live versions, or the versions of one task."""
        from registry.verbs import listing

        if not self.task and (self.before is not None or self.limit != type(self).limit):
            raise InputError("--limit: this and --before are for the versions of a task; name one")
        return listing(self.place, self.task, limit=self.limit, before=self.before)


@dataclass(frozen=True, kw_only=True)
class Show(OfTask, Action, verb="registry show"):
    version: int | None = argument("number of the version to show (default: the live one)", None, min=1)

    def call(self) -> object:
        """Shows everything that is known of a version."""
        from registry.verbs import show

        return show(self.place, self.task, self.version)


@dataclass(frozen=True, kw_only=True)
class Diff(OfTask, Action, verb="registry diff"):
    version: int = argument("number of a version", min=1)
    other: int | None = argument("number of the version beside it (default: the live one)", None, min=1)

    def call(self) -> object:
        """Compares two versions."""
        from registry.verbs import diff

        return diff(self.place, self.task, self.version, self.other)


@dataclass(frozen=True, kw_only=True)
class Promote(OfTask, Logged, UnderBudgets, Action, verb="registry promote"):
    version: int = argument("number of the version to make live", min=1)
    expect: int | None = option(
        None, "refuse if the task is at another generation than this (default: the present one)", min=0
    )

    def call(self) -> object:
        """Makes a version live by hand."""
        from registry.verbs import promote

        budgets = budgets_for(self.budgets, self.place.registry)
        logged = {"reason": self.reason, "actor": self.actor}
        return promote(self.place, self.task, self.version, expected=self.expect, budgets=budgets, **logged)


@dataclass(frozen=True, kw_only=True)
class Rollback(OfTask, Logged, Action, verb="registry rollback"):
    def call(self) -> object:
        """Makes the version before the live one live again."""
        from registry.verbs import rollback

        return rollback(self.place, self.task, reason=self.reason, actor=self.actor)


@dataclass(frozen=True, kw_only=True)
class Audit(Action, verb="registry audit"):
    def call(self) -> object:
        """Reads every artefact, and compares live versions with the log."""
        from registry.verbs import audit

        return audit(self.place)


@dataclass(frozen=True, kw_only=True)
class Gc(Action, verb="registry gc"):
    keep: int = option(10, "newest versions of each task that stay", min=0)
    dry_run: bool = option(False, "only say which artefacts would be removed")
    moved: bool = option(False, "the registry was moved, or copied with its store: it is no copy beside its original")

    def call(self) -> object:
        """Removes the artefacts of old versions."""
        from registry.verbs import gc

        return gc(self.place, keep=self.keep, dry_run=self.dry_run, moved=self.moved)


@dataclass(frozen=True, kw_only=True)
class Precision(Action, verb="registry precision"):
    backbone: str = argument("backbone folder, or minilm (default: all that have a precision)", "")
    choose: str = option("", "precision of this trunk for the whole fleet from now on")
    reason: str = option("", "reason, for the record; with --choose")
    actor: str = option("", "who chooses, for the record (default: user@machine)")

    def call(self) -> object:
        """Shows the precision of each trunk, who chose it, when and on which rows; --choose changes it."""
        from registry.verbs import precision

        if self.choose and not (self.backbone and self.reason.strip()):
            raise InputError("--choose: needs the backbone that it is about, and --reason")
        if not self.choose and (self.reason or self.actor):
            raise InputError("--reason: this and --actor belong to --choose; name a precision")
        return precision(self.place, self.backbone, choice=self.choose, actor=self.actor, reason=self.reason)


@dataclass(frozen=True, kw_only=True)
class Export(Action, verb="registry export"):
    out: str = required("file to write")

    def call(self) -> object:
        """Writes the whole registry as JSON lines."""
        from registry.verbs import export

        return export(self.place, self.out)


@dataclass(frozen=True, kw_only=True)
class Import(Action, verb="registry import"):
    file: str = argument("file that `registry export` wrote")

    def call(self) -> object:
        """Makes a registry of an export, where there is none or an empty one."""
        from registry.verbs import import_

        return import_(self.place, self.file)


@dataclass(frozen=True, kw_only=True)
class Upgrade(Action, verb="registry upgrade"):
    def call(self) -> object:
        """Brings the tables of a former version forward."""
        from registry.verbs import upgrade

        return upgrade(self.place)


@dataclass(frozen=True, kw_only=True)
class AuditBudgets(UnderBudgets, Action, verb="audit"):
    html: str = option("", "HTML page to write")
    days: float = option(30.0, "days of a period, for what owners spent", above=0)
    propose: str = option("", "new file of budgets to write, from what is live today")
    usage: tuple[str, ...] = option((), "file of `serve --usage`; may be repeated", repeat=True)
    slack: float = option(0.25, "room that --propose leaves above what is measured, as a share", min=0)

    def call(self) -> object:
        """Judges all versions by the team's budgets: what breaks which, trends, exceptions, who approved."""
        from registry.verbs import audit_of_budgets

        if self.slack != type(self).slack and not self.propose:
            raise InputError("--slack: belongs to --propose; name the file that it writes")
        budgets = budgets_for(self.budgets, self.place.registry)
        return audit_of_budgets(
            self.place,
            budgets,
            days=self.days,
            html=self.html,
            proposal=self.propose,
            slack=self.slack,
            usage=self.usage,
        )


VERBS: tuple[type[Verb], ...] = (AuditBudgets,)
ACTIONS: tuple[type[Verb], ...] = (
    *(Publish, List, Show, Diff, Promote, Rollback, Audit, Gc, Precision, Export, Import, Upgrade),
)
