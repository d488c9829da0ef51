"""Wallets of LNbits, asked by lines of JSON. It runs with LNbits' own Python and knows nothing of farebox.

{"make": "name", "module": …, "class": …, "settings": {…}} makes one;
{"ask": "name", "method": …, "given": […]} asks it.
"""

import asyncio
import json
import sys
from importlib import import_module


async def main() -> None:
    from lnbits.settings import settings
    from loguru import logger

    logger.remove()
    wallets = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        try:
            if "make" in asked:
                for name, value in asked["settings"].items():
                    setattr(settings, name, value)
                made = getattr(import_module(f"lnbits.wallets.{asked['module']}"), asked["class"])()
                wallets[asked["make"]] = made
                told = {name: getattr(await made.status(), name) for name in ("error_message", "balance_msat")}
            else:
                reply = await getattr(wallets[asked["ask"]], asked["method"])(*asked["given"])
                told = {name: getattr(reply, name) for name in reply._fields}  # not _asdict: a subclass overrides some
        except Exception as error:
            told = {"raised": repr(error)}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


asyncio.run(main())
