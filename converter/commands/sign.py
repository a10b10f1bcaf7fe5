"""`plm-export sign PACKAGE… --key KEY`."""

from pathlib import Path

import click

from converter.commands.session import Session, json_option, quiet_options
from converter.commands.verify import packages_in


@click.command("sign", short_help="Sign a package, so that its users can tell who made it.")
@click.argument("package", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Private key in PEM: Ed25519, or of the curve P-256, P-384 or P-521.",
)
@json_option
@quiet_options
@click.pass_obj
def sign(session: Session, package: tuple[Path, ...], key: Path) -> int:
    """Sign every file of PACKAGE; the signature is written to model.sig beside the manifest.

    PACKAGE is the folder of a package, or an output folder: then every package in it is signed. `plm-export verify
    PACKAGE --key PUBLIC.pem` refuses a package in which a file was changed, added or removed since. The password of an
    encrypted key is read from the environment variable PLM_EXPORT_KEY_PASSWORD.
    """
    from converter.package.signature import read_signing_key

    signing = read_signing_key(key)
    rows = []
    for folder in (found for given in package for found in packages_in(given)):
        path = signing.sign(folder)
        rows.append({"package": str(folder), "signature": str(path)})
        if not session.terminal.json:
            session.terminal.result(str(path))
    if session.terminal.json:
        session.print_json(rows)
    return 0
