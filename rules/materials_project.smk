"""Data of the Materials Project: magnetizations, elemental ground states, formulas (docs/materials-project.md).

These rules need the network and MP_API_KEY, which compute nodes seldom have, so they run where Snakemake runs.
"""


checkpoint fetch_magnetizations:
    input:
        STRUCTURE_CSVS.values(),
    output:
        magnetizations=f"{RESULTS}/materials_project/magnetizations.parquet",
    log:
        f"{RESULTS}/logs/fetch_magnetizations.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch_magnetizations.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.structures.materials_project.fetch_magnetizations"),
        csvs=unrecorded(STRUCTURE_CSVS),
        cache=unrecorded(CACHE),
    message:
        "Asking the Materials Project for magnetizations"
    script:
        "../workflow/scripts/call.py"


rule fetch_elemental_crystals:
    output:
        crystals=f"{CACHE}/materials_project/elements.csv",
    log:
        f"{CACHE}/logs/fetch_elemental_crystals.log",
    benchmark:
        f"{CACHE}/benchmarks/fetch_elemental_crystals.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.structures.materials_project.fetch_elemental_crystals"),
        cache=unrecorded(CACHE),
    message:
        "Asking the Materials Project for the ground states of the elements"
    script:
        "../workflow/scripts/call.py"


rule fetch_formulas:
    output:
        formulas=f"{CACHE}/materials_project/formulas.txt",
    log:
        f"{CACHE}/logs/fetch_formulas.log",
    benchmark:
        f"{CACHE}/benchmarks/fetch_formulas.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.structures.materials_project.fetch_formulas"),
        cache=unrecorded(CACHE),
    message:
        "Asking the Materials Project for its formulas"
    script:
        "../workflow/scripts/call.py"
