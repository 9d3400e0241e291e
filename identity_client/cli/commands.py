"""The commands by name; each is in a module of its own, which is imported when it is run.

Exit codes that scripts can rely on: 0: done. 1: identity-api or the token endpoint refused, or a
check failed. 2: a wrong argument or setting. 3: timed out. ``exec`` adds 126 and 127, and passes on
those of its command.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from .. import __version__
from .failures import errors_as_exits

# Name: the module that has the command as ``NAME_command``, and its line in the list of commands.
_LAZY = {
    "token": ("access_token", "Print an access token, and nothing else."),
    "exec": ("exec", "Run a command with an access token in its environment."),
    "check": ("check", "Check all settings, offline, and report every problem."),
    "wait": ("wait", "Wait for a token, or for identity-api to respond."),
    "try": ("trial", "Try to get a token and show how that went."),
    "status": ("status", "Show the state of a service that runs."),
    "doctor": ("doctor.command", "Find out why no token can be obtained."),
    "credentials": ("credentials", "Look after the credentials in the credential store."),
    "register": ("api", "Register a service, and save its secret to a file."),
    "verify-membership": ("api", "Ask whether a user is a member of an organization."),
    "ensure-system-org": ("api", "Create a system organization unless it exists."),
    "get-system-org": ("api", "Show a system organization."),
    "completion": ("completion", "Print the script that completes commands in a shell."),
    "serve": ("development", "Run a reference identity-api, for development or on Keycloak."),
    "demo": ("development", "Show the package at work, on this machine."),
}


class CommandGroup(click.Group):
    """A group whose commands are imported when they are run, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return [*_LAZY]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # as above
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _LAZY:
            return None
        module = import_module(f".{_LAZY[cmd_name][0]}", __package__)
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(  # without importing the commands
        self,
        ctx: click.Context,  # noqa: ARG002  # as above
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _LAZY.items()])

    def invoke(self, ctx: click.Context) -> Any:
        with errors_as_exits():
            return super().invoke(ctx)


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, prog_name="identity-client")
def cli() -> None:
    """Access tokens for microservices.

    Settings come from the environment, as for a service: IDENTITY_API_URL,
    IDENTITY_API_INTERNAL_TOKEN (or IDENTITY_API_INTERNAL_TOKEN_FILE), SERVICE_NAME, or
    SERVICE_CLIENT_ID, SERVICE_CLIENT_SECRET and SERVICE_TOKEN_ENDPOINT. Secrets are never
    arguments.

    Exit codes: 0 done; 1 refused, or a check failed; 2 a wrong argument or setting; 3 timed out.
    """
