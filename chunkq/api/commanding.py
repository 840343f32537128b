"""What a command of this site's does on this host: the same as the command line would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from chunkq.errors import ChunkqError
from chunkq.ports import Log
from chunkq.protocol.control import DROP, Command
from chunkq.settings import Directories
from chunkq.storage.control import Control
from chunkq.storage.jobs import JobStore


def commander(places: Directories, instance: str, log: Log) -> Callable[[Command], None]:
    """What applies commands to the process called `instance`. It blocks; raises `StorageError`.

    Of several transfers each is tried; those that refuse are logged.
    """

    def apply(command: Command) -> None:
        if command.transfers:
            store = JobStore(places.state)
            try:
                for transfer in command.transfers:
                    try:
                        _steer(store, command, transfer)
                    except ChunkqError as error:
                        fields = {"request": transfer, "detail": error.message}
                        log("control_refused", level="warning", action=command.action, **fields)
            finally:
                store.close()
            return
        control = Control(places.state)
        try:
            _decide(control, command, instance)
        finally:
            control.close()

    return apply


def _steer(store: JobStore, command: Command, transfer: str) -> None:
    match command.action:
        case "pause":
            store.pause(transfer, command.by)
        case "resume":
            store.resume(transfer, command.by)
        case "cancel":
            store.cancel(transfer, command.by, command.value == DROP)
        case "retry":
            store.retry(transfer, command.by)
        case "priority":
            store.set_priority(transfer, command.value, command.by)
        case _:
            raise AssertionError(command.action)


def _decide(control: Control, command: Command, instance: str) -> None:
    if command.action == "drain":
        control.drain(instance, command.by)
        return
    word, name = command.subject
    kind = cast("Literal['peer', 'link']", word)
    if command.action == "freeze":
        control.freeze(kind, name, command.by)
    else:
        control.thaw(kind, name, command.by)
