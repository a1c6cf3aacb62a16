# How jobs start: in the environment that Snakemake itself runs in, activated or not. On Linux, those of this machine are
# forked from a process that has imported the large packages already (runtime/warm.py), unless NESTED_REFT_WARM is `off`.
from nested_reft.runtime import warm
from nested_reft.runtime.home import name_user

# Before Snakemake and the jobs ask for it.
name_user()

REPORT_RULES = ("collect", "presentation_tables", "claims", "figure", "page")

shell.prefix(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")


def start_warm():
    """Start the process that jobs are forked from, if there are several that compute or several of the report."""
    if (
        not (workflow.is_main_process and workflow.local_exec)
        or workflow.deployment_settings.deployment_method
        or workflow.touch
        or sys.platform != "linux"
        or os.environ.get(warm.VARIABLE) == warm.OFF
    ):
        return
    waiting = list(workflow.dag.needrun_jobs())
    # Every rule that imports torch has the resource `gpu`, on a CPU as 0.
    computing = sum(job.resources.get("gpu") is not None for job in waiting) > 1
    reporting = sum(job.rule.name in REPORT_RULES for job in waiting) > 1
    packages = (
        *(warm.COMPUTING if computing else ()),
        *(warm.REPORTING if reporting else ()),
    )
    if packages:
        os.environ[warm.VARIABLE] = warm.start(
            Path(RESULTS) / "logs/warm.log", CONFIG.threads_per_job, packages
        )
