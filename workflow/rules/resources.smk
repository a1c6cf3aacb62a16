# What jobs ask for of whoever starts them: GPUs, memory, minutes, cores; and when Snakemake looks for the next job.
from nested_reft.config import job_resources

# Where several jobs share the GPUs of one machine, each gets GPUs of its own; a scheduler's jobs have them already.
ON_GPU = "nested-reft on-gpu {resources.gpu} " if CONFIG.device == "cuda" else ""
# Training runs a process on each of its GPUs.
ON_EACH_GPU = ON_GPU.replace("on-gpu", "on-gpu --each")


def asks_for(kind, resource):
    """What a job of this kind asks for of the scheduler, by its size; more each time it is tried again."""

    def asked(wildcards, attempt):
        return attempt * getattr(job_resources(CONFIG, wildcards.size, kind), resource)

    return asked


def gpus(kind):
    """How many GPUs a job of this kind asks for, by its size."""

    def asked(wildcards):
        fetched = kind == "model" and isinstance(CONFIG.sizes[wildcards.size], HubModel)
        if CONFIG.device == "cpu" or fetched:
            return 0
        return job_resources(CONFIG, wildcards.size, kind).gpu

    return asked


def all_cores():
    """All cores of this machine, so that no job runs beside; a cluster's profile has its own way to that."""
    here = workflow.is_main_process and workflow.local_exec
    return here and workflow.resource_settings.cores or CONFIG.threads_per_job


def check_gpu():
    """Jobs that will compute on this machine's GPU need one: said now, not after the hours of the jobs before them."""
    here = workflow.local_exec and not workflow.touch
    if here and any(job.resources.get("gpu") for job in workflow.dag.needrun_jobs()):
        from nested_reft.tasks.policy import select_device
        from nested_reft.tasks.records import DataError

        try:
            select_device(CONFIG.device)
        except DataError as error:
            raise WorkflowError(
                f"{error}; on a cluster, give Snakemake its profile (docs/scale.md)"
            ) from None


def look_when_jobs_end():
    """Have Snakemake look for jobs to start when one has ended, and not all the time.

    To keep to its limit of 100 jobs a second, Snakemake 9 looks again a second after each look, also after those that
    the end of a job asks for: after n jobs it looks n times a second, which takes ever more processor time from the jobs
    that run. Another limit (--max-jobs-per-timespan) stays.
    """
    scheduler = workflow.scheduler
    limit = scheduler.job_rate_limiter
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        scheduler.job_rate_limiter = None
