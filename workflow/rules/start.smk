# How jobs start: in the environment that Snakemake itself runs in, activated or not. On Linux, those of this machine are
# forked from a process that has imported the large packages already (runtime/warm.py), unless NESTED_REFT_WARM is `off`.
from nested_reft.runtime import warm
from nested_reft.runtime.home import name_user

# Before Snakemake and the jobs ask for it.
name_user()

REPORT_RULES = ("collect", "presentation_tables", "claims", "figure", "page")

WARM = (
    warm.address_of(os.getpid())
    if workflow.is_main_process
    and workflow.local_exec
    and not workflow.deployment_settings.deployment_method
    and sys.platform == "linux"
    and os.environ.get(warm.VARIABLE) != warm.OFF
    else None
)
shell.prefix(
    f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "
    + (f"export {warm.VARIABLE}={shlex.quote(str(WARM))}; " if WARM else "")
)


def start_warm():
    """Start the process that jobs are forked from, if there are several that compute or several of the report."""
    waiting = list(workflow.dag.needrun_jobs())
    # Every rule that imports torch has the resource `gpu`, on a CPU as 0.
    computing = sum(job.resources.get("gpu") is not None for job in waiting)
    reporting = sum(job.rule.name in REPORT_RULES for job in waiting)
    if WARM and max(computing, reporting) > 1 and not workflow.touch:
        log = Path(RESULTS) / "logs/warm.log"
        command = "train" if computing else "figure"
        warm.start(WARM, log, CONFIG.threads_per_job, command)
