"""The ``cmcl`` command."""

import errno
import logging
import sys
from typing import Any

import click

from cmcl_ray import __version__, logs
from cmcl_ray.errors import CmclError

logger = logging.getLogger(__name__)


class _Group(click.Group):
    """Prints an error that speaks to the user as one text, without a stack trace, and exits with 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CmclError as error:
            click.echo(f"cmcl: {error}", err=True)
            ctx.exit(2)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            logger.debug("where it happened", exc_info=True)
            click.echo(f"cmcl: a file cannot be used ({error}); check the path, its permissions and the space left", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--verbose", is_flag=True, help="Show debug lines.")
def main(verbose: bool) -> None:
    """Continual cross-modal retrieval: train, index and query image-text models that meet their data in steps."""
    logs.set_up(verbose)


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def run(config: str, overrides: tuple[str, ...]) -> None:
    """Run a whole continual stream, or all runs a config compares.

    The same command run again goes on where it stopped.

    \b
    Examples:
      cmcl run configs/run/demo.yaml
      cmcl run configs/run/demo.yaml engine=local out=runs/mine train.epochs=5
    """  # noqa: D301  # \b keeps click from filling the lines
    from cmcl_ray.run.study import run_config

    display = logs.display_for(sys.stderr)
    try:
        result = run_config(config, overrides, display)
    finally:
        display.close()
    click.echo(result.table)
    click.echo(f"report: {result.report}")


@main.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", default=".", show_default=True, help="Folder for report.html and report.md of several runs.")
def report(runs: tuple[str, ...], out: str) -> None:
    """Write the report of one run, or one that compares several.

    \b
    Examples:
      cmcl report runs/demo/finetune/seed0
      cmcl report runs/demo/finetune/seed* runs/demo/replay/seed* --out runs/demo
    """  # noqa: D301  # \b keeps click from filling the lines
    from cmcl_ray import storage
    from cmcl_ray.report.page import write_report

    folders = [storage.absolute(folder) for folder in runs]
    html, markdown = write_report(folders[0] if len(folders) == 1 else storage.absolute(out), folders)
    click.echo(f"report: {html}\n        {markdown}")


@main.command()
@click.argument("folder", metavar="RUN")
@click.argument("query", metavar='"TEXT"|IMAGE')
@click.option("--policy", default=None, help="Gallery to ask, by the policy that keeps it; the live one unless given.")
@click.option("-k", "hits", default=10, show_default=True, help="Hits shown.")
def search(folder: str, query: str, policy: str | None, hits: int) -> None:
    """Ask a run's gallery: a text finds images, an image file finds captions.

    \b
    Examples:
      cmcl search runs/demo/replay/seed0 "a small red circle at the top left"
      cmcl search runs/demo/replay/seed0 photo.png --policy reindex
    """  # noqa: D301  # \b keeps click from filling the lines
    from cmcl_ray.run.asking import ask_run, render_answers

    click.echo(render_answers(ask_run(folder, query, policy, hits)))


@main.command()
@click.argument("path", required=False)
def doctor(path: str | None) -> None:
    """Check Python, packages, Ray, GPU, faiss and a folder runs may be written to, and say what to do.

    \b
    Examples:
      cmcl doctor
      cmcl doctor runs/
    """  # noqa: D301  # \b keeps click from filling the lines
    from cmcl_ray.run.doctor import diagnose

    findings = diagnose(path)
    for finding in findings:
        click.echo(finding.line())
    if any(finding.state == "fail" for finding in findings):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
