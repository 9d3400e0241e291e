"""``completion``: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .console import echo
from .options import examples


@click.command(
    "completion",
    epilog=examples(
        'eval "$(identity-client completion bash)"',
        "identity-client completion zsh > ~/.zfunc/_identity-client",
        "identity-client completion fish | source",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands in a shell."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  # click has all three
    group = ctx.find_root().command
    script = kind(group, {}, "identity-client", "_IDENTITY_CLIENT_COMPLETE").source()
    echo(script)
