# The pipeline is in workflow/; this file lets `snakemake` be called from the repository's root.
include: "workflow/Snakefile"


# An included file cannot name the default target, so the file that Snakemake was started with does.
rule default:
    input:
        rules.all.input,
    default_target: True
