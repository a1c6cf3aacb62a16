# How jobs start: in the environment that Snakemake itself runs in, activated or not. On Linux, those of this machine are
# forked from a process that has imported torch already (runtime/warm.py), unless NESTED_REFT_WARM is `off`.
from nested_reft.runtime import warm

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
    """Start the process that the jobs which compute are forked from, if there are several."""
    # Every rule that imports torch has the resource `gpu`, on a CPU as 0.
    compute = [
        job
        for job in workflow.dag.needrun_jobs()
        if job.resources.get("gpu") is not None
    ]
    if WARM and len(compute) > 1 and not workflow.touch:
        warm.start(WARM, Path(RESULTS) / "logs/warm.log", CONFIG.threads_per_job)
