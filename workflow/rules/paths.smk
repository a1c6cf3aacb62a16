# Where files are. Results, and a configuration of your own, are in the working directory. The default configuration,
# the lock file and the sources belong to the clone that this file is in, wherever Snakemake was started and whichever
# workflow uses this one as a module.
import os
import shlex
from pathlib import Path

from nested_reft.data.lock import find_lock
from snakemake.common import SNAKEFILE_CHOICES

DEFAULT_CONFIG = "config/config.yaml"
# The folder of the clone; a URL if a module takes this workflow from a host such as GitHub.
CLONE = str(workflow.current_basedir.join("../.."))
HAS_CLONE = os.path.isdir(CLONE)


def own_path(name):
    """A file of the clone, relative to the working directory: a moved clone stays up to date."""
    return os.path.relpath(os.path.join(CLONE, name))


def has_config():
    """Whether this call, or the workflow whose module this is, brings a whole configuration."""
    called = workflow.modifier.is_main_snakefile()
    return "experiment" in config and bool(workflow.overwrite_configfiles or not called)


def default_config():
    """The configuration for a call that names none: the working directory's, or else the clone's."""
    if Path(DEFAULT_CONFIG).exists():
        return DEFAULT_CONFIG
    if HAS_CLONE:
        return own_path(DEFAULT_CONFIG)
    return workflow.source_path(f"../../{DEFAULT_CONFIG}")


def lock_path():
    """The lock file: `hub.lock` beside the configuration if there is one, or else the clone's.

    Without a clone it is config/hub.lock in the working directory.
    """
    own = own_path("config/hub.lock") if HAS_CLONE else "config/hub.lock"
    return os.path.relpath(find_lock(next(reversed(workflow.configfiles), None), own))


def reference_option():
    """The option that compares with the kept run of this experiment, if the clone has one."""
    kept = own_path(f"docs/reference/{CONFIG.experiment}")
    return (
        f"--reference {shlex.quote(kept)}"
        if os.path.exists(f"{kept}/tables/claims.csv")
        else ""
    )


def command_options():
    """The options of this call that another one needs to find the same workflow with the same configuration."""
    options = []
    snakefile = os.path.relpath(workflow.main_snakefile)
    found = next(filter(os.path.exists, SNAKEFILE_CHOICES), None)  # without --snakefile
    if snakefile != str(found):
        options += ["--snakefile", snakefile]
    files = [os.path.relpath(path) for path in workflow.overwrite_configfiles]
    if files and files != [DEFAULT_CONFIG]:
        options += ["--configfile", *files]
    if changes := workflow.config_settings.config_args:
        options += ["--config", *changes]
    return shlex.join(options)
