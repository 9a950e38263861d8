"""How jobs reach SLURM if the SLURM plugin is installed; a single machine does not need it."""

from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

if "slurm" in ExecutorPluginRegistry().plugins:
    from xtalrl.slurm_executor import install

    install()
