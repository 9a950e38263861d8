"""How jobs reach SLURM, where its plugin is installed: a machine alone does without."""

from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

if "slurm" in ExecutorPluginRegistry().plugins:
    from xtalrl.slurm_executor import install

    install()
