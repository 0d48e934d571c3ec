"""`slipway backup`: a repository of models, with no server and no Prefect needed."""

from __future__ import annotations

import typer

from slipway.cli.backup import flows, keeping, looking, moving, proving, repositories

app = typer.Typer(help="Back up models, prove it, and bring them back.", no_args_is_help=True)
for part in (repositories, moving, looking, proving, keeping, flows):
    part.add_to(app)
