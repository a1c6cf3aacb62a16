# What jobs request from Snakemake or its scheduler: GPUs, memory, minutes, cores.
from nested_reft.config.experiment import gpus_of, job_resources

# If several jobs share the GPUs of one machine, each gets its own; a scheduler's jobs have theirs already.
ON_GPU = "nested-reft on-gpu {resources.gpu} " if CONFIG.device == "cuda" else ""
# Training runs one process per GPU.
ON_EACH_GPU = ON_GPU.replace("on-gpu", "on-gpu --each")


def asks_for(kind, resource):
    """What a job of this kind requests from the scheduler, by its size; more at each retry."""

    def asked(wildcards, attempt):
        return attempt * getattr(job_resources(CONFIG, wildcards.size, kind), resource)

    return asked


def gpus(kind):
    """How many GPUs a job of this kind requests, by its size."""

    return lambda wildcards: gpus_of(CONFIG, wildcards.size, kind)


def all_cores():
    """All cores of this machine, so that no other job runs with it; a cluster's profile has its own way to do so."""
    here = workflow.is_main_process and workflow.local_exec
    return here and workflow.resource_settings.cores or CONFIG.threads_per_job


def check_gpu():
    """Stop now, not after hours of other jobs, if jobs will need this machine's GPU and there is none."""
    here = workflow.local_exec and not workflow.touch
    if here and any(job.resources.get("gpu") for job in workflow.dag.needrun_jobs()):
        from nested_reft.rollouts.policy import select_device
        from nested_reft.data.records import DataError

        try:
            select_device(CONFIG.device)
        except DataError as error:
            raise WorkflowError(
                f"{error}; on a cluster, give Snakemake its profile (docs/scale.md)"
            ) from None


def check_engine():
    """Stop now, too, if jobs of this machine will need vLLM and it is not installed."""
    elsewhere = workflow.deployment_settings.deployment_method
    here = workflow.local_exec and not workflow.touch and not elsewhere
    jobs = workflow.dag.needrun_jobs() if ENGINE and here else ()
    # Not their beginning: a workflow that uses this one as a module has a prefix for them.
    if any(
        kind in job.name for job in jobs for kind in ("train", "evaluate", "step_speed")
    ):
        from nested_reft.rollouts.vllm_sampler import SamplerError, require_vllm

        try:
            require_vllm()
        except SamplerError as error:
            raise WorkflowError(str(error)) from None
