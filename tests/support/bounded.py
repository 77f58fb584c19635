"""Runs what might hang, crash or fill the memory in a child process that is not allowed to."""

import multiprocessing
import resource
from collections.abc import Callable
from typing import Any


def _child(pipe, function, args, seconds, megabytes):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit = now + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        outcome = ("returned", function(*args))
    except Exception as error:
        outcome = (type(error).__name__, str(error))
    pipe.send(outcome)


def bounded(
    function: Callable[..., Any], *args: Any, seconds: int = 10, megabytes: int = 512
) -> tuple[str, Any]:
    """("returned", value), (name of the exception, message) or ("died", exit code).

    The child may use `seconds` of CPU time and `megabytes` beyond what this process has mapped.
    """
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, function, args, seconds, megabytes))
    child.start()
    theirs.close()
    try:
        return mine.recv() if mine.poll(6 * seconds) else ("died", "of waiting")
    except EOFError:
        child.join()
        return ("died", child.exitcode)
    finally:
        child.kill()
        child.join()
