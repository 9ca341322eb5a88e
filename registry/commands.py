"""The command line of the verb `registry`: its actions, their options, and the call that each makes.

The parser is built for every verb, so what the actions need (SQLAlchemy) is imported when one is called.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backbone.options import Parser, said, whole

if TYPE_CHECKING:
    from registry.verbs import Place


def _place(options: argparse.Namespace) -> Place:
    from registry.verbs import Place

    return Place(options.registry, options.store)


def _publish(options: argparse.Namespace) -> Any:
    from registry.verbs import publish

    return publish(_place(options), options.graft, options.task, options.parent)


def _list(options: argparse.Namespace) -> Any:
    from registry.verbs import listing

    found = listing(_place(options), options.task, limit=options.limit, before=options.before)
    return found if options.json else found.table()


def _show(options: argparse.Namespace) -> Any:
    from registry.verbs import show

    return show(_place(options), options.task, options.version)


def _diff(options: argparse.Namespace) -> Any:
    from registry.verbs import diff

    return diff(_place(options), options.task, options.version, options.other)


def _promote(options: argparse.Namespace) -> Any:
    from registry.verbs import promote

    told = {"reason": options.reason, "actor": options.actor}
    return promote(_place(options), options.task, options.version, expected=options.expect, **told)


def _rollback(options: argparse.Namespace) -> Any:
    from registry.verbs import rollback

    return rollback(_place(options), options.task, reason=options.reason, actor=options.actor)


def _audit(options: argparse.Namespace) -> Any:
    from registry.verbs import audit

    return audit(_place(options))


def _gc(options: argparse.Namespace) -> Any:
    from registry.verbs import gc

    return gc(_place(options), keep=options.keep, dry_run=options.dry_run)


def _export(options: argparse.Namespace) -> Any:
    from registry.verbs import export

    return export(_place(options), options.out)


def add_actions(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """The actions of the verb and their options; `common` holds those that every verb has."""
    place = Parser(add_help=False)
    place.add_argument("--registry", default="", help="URL (default: sqlite, in TOPGRAFT_HOME/registry.db)")
    place.add_argument("--store", default="", help="folder of the artefacts (default: TOPGRAFT_HOME/store)")
    told = Parser(add_help=False)
    told.add_argument("--reason", type=said, required=True, help="why, for the log")
    told.add_argument("--actor", default="", help="who, for the log (default: user@machine)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, call: Callable[[argparse.Namespace], Any], text: str, *parents: Any) -> Any:
        sub = actions.add_parser(name, help=text, description=text, parents=[common, place, *parents])
        sub.set_defaults(call=call)
        return sub

    sub = action("publish", _publish, "make a graft the next version of a task")
    sub.add_argument("graft", help="graft folder")
    sub.add_argument("--task", default="", help="name of the task (default: the name in the graft)")
    sub.add_argument("--parent", type=whole(1), help="number of the version it was made from")
    sub = action("list", _list, "tasks and what is live, or the versions of a task")
    sub.add_argument("task", nargs="?", default="", help="name of the task")
    sub.add_argument("--limit", type=whole(1), default=50, help="versions in a page")
    sub.add_argument("--before", type=whole(1), help="only versions below this number: the next page")
    sub = action("show", _show, "all that is known of a version")
    sub.add_argument("task", help="name of the task")
    sub.add_argument("version", type=whole(1), nargs="?", help="its number (default: the live one)")
    sub = action("diff", _diff, "what differs between two versions")
    sub.add_argument("task", help="name of the task")
    sub.add_argument("version", type=whole(1), help="number of a version")
    sub.add_argument("other", type=whole(1), nargs="?", help="number of another (default: the live one)")
    sub = action("promote", _promote, "make a version live, by hand", told)
    sub.add_argument("task", help="name of the task")
    sub.add_argument("version", type=whole(1), help="its number")
    sub.add_argument(
        "--expect", type=whole(0), help="refuse if the task is not at this generation (default: the present)"
    )
    sub = action("rollback", _rollback, "make the version before live again", told)
    sub.add_argument("task", help="name of the task")
    action("audit", _audit, "read every artefact, compare live pointers with the log")
    sub = action("gc", _gc, "remove the artefacts of old versions")
    sub.add_argument("--keep", type=whole(0), default=10, help="newest versions of a task that stay")
    sub.add_argument("--dry-run", action="store_true", help="only say what would go")
    sub = action("export", _export, "write the whole registry as JSON lines")
    sub.add_argument("--out", required=True, help="the file")
