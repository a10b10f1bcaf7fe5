"""Runs client scripts beside this file, one after the other in one process: to import Optimum takes eight seconds.

Reads a line of JSON [script, request, answer] at a time and calls the script's `main(request, answer)`; says in a line
of JSON how that ended: null, or the traceback. Runs in a client's own environment.
"""

import importlib
import json
import os
import sys
import traceback


def main() -> None:
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        script, *paths = json.loads(line)
        ended = None
        try:
            importlib.import_module(script).main(*paths)
        except Exception:  # noqa: BLE001 - whatever the client raises fails the test that asked
            ended = traceback.format_exc()
        told.write(f"{json.dumps(ended)}\n")
        told.flush()


if __name__ == "__main__":
    main()
