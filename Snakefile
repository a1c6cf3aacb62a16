# The pipeline is in workflow/; this file lets `snakemake` be called from the repository's root. So does the link
# profiles: Snakemake looks for the default profile beside the file that it was started with.
include: "workflow/Snakefile"


# An included file cannot name the default target, so the file that Snakemake was started with does.
rule default:
    default_target: True
    input:
        rules.all.input,
    message:
        f"All figures, tables and pages are in {RESULTS}/"
