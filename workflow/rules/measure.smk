# What is measured of a model, on problems of `dataset` or else of the first data set: one rule each, with the same body.
# `settings` makes what a job is passed, of its size, stage and skip.
MEASUREMENTS = {
    # Speed, of rollouts and of whole training steps. These jobs take all cores, so that no other job runs with them,
    # but compute with their usual threads.
    "throughput": dict(
        output="throughput/{size}/skip{skip}.json",
        settings=jobs.throughput_settings,
        alone=True,
        message="Throughput, alone on the machine: {wildcards.size}, skip {wildcards.skip} %",
    ),
    "step_speed": dict(
        output="step_speed/{size}/skip{skip}.json",
        settings=jobs.step_speed_settings,
        modules=ENGINE,
        alone=True,
        each=True,
        message="Whole steps, alone on the machine: {wildcards.size}, skip {wildcards.skip} %",
    ),
    # What leaving out each layer of a model does to its next token, on prompts alone.
    "influence": dict(
        output="influence/{stage}/{size}.json",
        settings=jobs.influence_settings,
        policy=stage_folder,
        message="Influence of each layer: {wildcards.size}, {wildcards.stage}",
    ),
    # Bias and variance of the gradient estimates of the model that reinforcement starts from, for all corrections of
    # `gradients`, against on-policy estimates, which are the same at every skip.
    "on_policy_gradients": dict(
        output="gradients/{size}/on_policy.safetensors",
        settings=jobs.on_policy_settings,
        resources="gradients",
        message="Gradients, on-policy: {wildcards.size}",
    ),
    "gradients": dict(
        output="gradients/{size}/skip{skip}.json",
        settings=jobs.gradient_settings,
        inputs=dict(
            on_policy=f"{RESULTS}/gradients/{{size}}/on_policy.safetensors",
            influence=lambda wildcards: influence_of(
                CONFIG.layer_choice.strategies[:1], wildcards.size
            ),
        ),
        message="Gradients, bias and variance: {wildcards.size}, skip {wildcards.skip} %",
    ),
}
if CONFIG.gradients.by_completion:
    # The same problem by problem, from distinct completions with their probabilities.
    MEASUREMENTS["completion_gradients"] = dict(
        output="completion_gradients/{size}/skip{skip}.json",
        settings=jobs.completion_gradient_settings,
        inputs=dict(influence=MEASUREMENTS["gradients"]["inputs"]["influence"]),
        message="Gradients by distinct completions: {wildcards.size}, skip {wildcards.skip} %",
    )
if CONFIG.nestability:
    # How far nested rollouts of a model are from it, before any reinforcement, and what they are worth.
    MEASUREMENTS["nestability"] = dict(
        output="nestability/{stage}/{size}/skip{skip}-{strategy}-border{border}.json",
        settings=jobs.nestability_settings,
        alone=bool(CONFIG.nestability.precisions),  # then it times rollouts
        dataset=CONFIG.nestability.dataset,
        policy=stage_folder,
        inputs=dict(
            influence=lambda wildcards: influence_of(
                (wildcards.strategy,) if int(wildcards.skip) else (),
                wildcards.size,
                wildcards.stage,
            ),
        ),
        message="Nestability: {wildcards.size}, {wildcards.stage}, skip {wildcards.skip} %, {wildcards.strategy}, border {wildcards.border}",
    )


# What follows `lambda` is bound now: the loop has ended when Snakemake asks.
for measurement, of in MEASUREMENTS.items():

    rule:
        name:
            measurement
        input:
            sources(measurement, *of.get("modules", ())),
            **of.get("inputs", {}),
            checked=ancient(f"{RESULTS}/data/checked.json"),
            policy=of.get("policy", START),
            problems=f"{RESULTS}/data/train/{of.get('dataset') or next(iter(CONFIG.datasets))}.jsonl",
        output:
            f"{RESULTS}/{of['output']}",
        log:
            f"{RESULTS}/logs/{Path(of['output']).with_suffix('.log')}",
        benchmark:
            f"{RESULTS}/benchmarks/{Path(of['output']).with_suffix('.tsv')}"
        conda:
            ENVIRONMENT
        threads: all_cores() if of.get("alone") else CONFIG.threads_per_job
        resources:
            mem_mb=asks_for(of.get("resources", measurement), "mem_mb"),
            runtime=asks_for(of.get("resources", measurement), "runtime"),
            gpu=gpus(of.get("resources", measurement)),
        params:
            on_gpu="on-gpu --each" if "each" in of else "on-gpu",
            command=measurement.replace("_", "-"),
            settings=lambda wildcards, of=of: of["settings"](
                CONFIG, **measured(wildcards)
            ).canonical_json(),
            threads=lambda wildcards, threads, of=of: (
                CONFIG.threads_per_job if of.get("alone") else threads
            ),
            files=optional_files,
        message:
            of["message"]
        shell:
            ON_GPU.replace("on-gpu", "{params.on_gpu}")
            + "nested-reft {params.command} --settings {params.settings:q} --threads {params.threads}"
            " --policy {input.policy} --problems {input.problems} {params.files} --output {output} 2> {log}"


# Bias and variance without sampling: sums over all completions of a policy small enough to enumerate. Needs no data or model.
rule exact:
    input:
        sources("exact"),
    output:
        f"{RESULTS}/exact.json",
    log:
        f"{RESULTS}/logs/exact.log",
    benchmark:
        f"{RESULTS}/benchmarks/exact.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    message:
        "Exact bias and variance on an enumerable policy"
    shell:
        "nested-reft exact --output {output} 2> {log}"
