"""`slipway sandbox node`: lose a node on purpose, and get it back."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli.sandbox_name import Name, home_of

app = typer.Typer(help="Take the power of a node away, and give it back.", no_args_is_help=True)

_Node = Annotated[str, typer.Argument(help="name of a node, for example node-a")]


@app.command()
def kill(node: _Node, *, name: Name = None) -> None:
    """Kill a node's kubelet, runtime and containers at once; it stays down until revived."""
    from slipway.sandbox.supervisor_client import kill_node

    home = home_of(name)
    kill_node(home, node)
    print(f"{node} is down; Kubernetes says NotReady after some 50 s")
    print(f"bring it back: slipway sandbox node revive {node}{home.option()}")


@app.command()
def revive(node: _Node, *, name: Name = None) -> None:
    """Start a killed node again; its pods come back."""
    from slipway.sandbox.supervisor_client import revive_node

    revive_node(home_of(name), node)
    print(f"{node} runs again")
