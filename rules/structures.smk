"""MP-20 or the demo set → nonmetal crystals as Niggli cells → CrystalNN graphs."""


rule build_demo_set:
    input:
        table=of_project("resources/demo/crystals.csv"),
    output:
        [f"{RESULTS}/structures/demo/{split}.csv" for split in SPLITS],
    log:
        f"{RESULTS}/logs/build_demo_set.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_demo_set.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.structures.demo.write_csvs"),
        outputs=csvs_by_split,
    message:
        "Building the textbook crystals in MP-20's columns"
    script:
        "../workflow/scripts/call.py"


rule fetch_mp20:
    output:
        [f"{CACHE}/mp20/{split}.csv" for split in SPLITS],
    log:
        f"{CACHE}/logs/fetch_mp20.log",
    benchmark:
        f"{CACHE}/benchmarks/fetch_mp20.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.structures.mp20.fetch_csvs"),
        outputs=csvs_by_split,
    message:
        "Downloading MP-20"
    script:
        "../workflow/scripts/call.py"


checkpoint read_crystals:
    input:
        STRUCTURE_CSVS.values(),
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
        call=unrecorded("xtalrl.structures.crystals.build_crystals"),
        csvs=unrecorded(STRUCTURE_CSVS),
        max_sites=cfg.structures.max_sites,
        metals=cfg.structures.metals,
        splits=cfg.structures.splits,
        limit=cfg.structures.limit,
    message:
        "Reading crystals, dropping metals, reducing cells"
    script:
        "../workflow/scripts/call.py"


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
    params:
        call=unrecorded("xtalrl.structures.neighbor_graphs.build_graphs"),
        cache=unrecorded(CACHE),
        workers=threads_of_job,
    message:
        "Building CrystalNN graphs on {threads} cores"
    script:
        "../workflow/scripts/call.py"
