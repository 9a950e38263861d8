"""MP-20 or the demo set → nonmetal crystals as Niggli cells → CrystalNN graphs."""


rule build_demo_set:
    input:
        crystals=of_project("resources/demo/crystals.csv"),
    output:
        train=f"{RESULTS}/structures/demo/train.csv",
        val=f"{RESULTS}/structures/demo/val.csv",
        test=f"{RESULTS}/structures/demo/test.csv",
    log:
        f"{RESULTS}/logs/build_demo_set.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_demo_set.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    message:
        "Building the textbook crystals in MP-20's columns"
    script:
        "../workflow/scripts/build_demo_set.py"


rule fetch_mp20:
    output:
        train=f"{CACHE}/mp20/train.csv",
        val=f"{CACHE}/mp20/val.csv",
        test=f"{CACHE}/mp20/test.csv",
    log:
        f"{CACHE}/logs/fetch_mp20.log",
    benchmark:
        f"{CACHE}/benchmarks/fetch_mp20.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    message:
        "Downloading MP-20"
    script:
        "../workflow/scripts/fetch_mp20.py"


checkpoint read_crystals:
    input:
        **STRUCTURE_CSVS,
        magnetizations=magnetizations,
    output:
        crystals=f"{RESULTS}/structures/crystals.parquet",
        rejected=f"{RESULTS}/structures/rejected.parquet",
    log:
        f"{RESULTS}/logs/read_crystals.log",
    benchmark:
        f"{RESULTS}/benchmarks/read_crystals.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        max_sites=cfg.structures.max_sites,
        metals=cfg.structures.metals,
        splits=cfg.structures.splits,
        limit=cfg.structures.limit,
    message:
        "Reading crystals, dropping metals, reducing cells"
    script:
        "../workflow/scripts/read_crystals.py"


checkpoint build_graphs:
    input:
        crystals=f"{RESULTS}/structures/crystals.parquet",
    output:
        graphs=f"{RESULTS}/structures/graphs.parquet",
        failures=f"{RESULTS}/structures/graph_failures.parquet",
    log:
        f"{RESULTS}/logs/build_graphs.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_graphs.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 4
    message:
        "Building CrystalNN graphs on {threads} cores"
    script:
        "../workflow/scripts/build_graphs.py"
