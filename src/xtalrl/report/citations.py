"""What a publication that uses a run should cite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Citation:
    """What was used, who made it, and where it was published."""

    what: str
    text: str
    doi: str


CITATIONS = (
    Citation(
        "The method reproduced here",
        "P. Govindarajan, S. Miret, J. Rector-Brooks, M. Phielipp, J. Rajendran, S. Chandar, Learning conditional policies for "
        "crystal design using offline reinforcement learning, Digital Discovery 3, 769 (2024)",
        "10.1039/D4DD00024B",
    ),
    Citation(
        "Conservative Q-learning",
        "A. Kumar, A. Zhou, G. Tucker, S. Levine, Conservative Q-Learning for Offline Reinforcement Learning, NeurIPS (2020)",
        "10.48550/arXiv.2006.04779",
    ),
    Citation(
        "MEGNet",
        "C. Chen, W. Ye, Y. Zuo, C. Zheng, S. P. Ong, Graph Networks as a Universal Machine Learning Framework for Molecules and "
        "Crystals, Chem. Mater. 31, 3564 (2019)",
        "10.1021/acs.chemmater.9b01294",
    ),
    Citation(
        "Quantum ESPRESSO",
        "P. Giannozzi et al., QUANTUM ESPRESSO: a modular and open-source software project for quantum simulations of materials, "
        "J. Phys.: Condens. Matter 21, 395502 (2009)",
        "10.1088/0953-8984/21/39/395502",
    ),
    Citation(
        "Quantum ESPRESSO",
        "P. Giannozzi et al., Advanced capabilities for materials modelling with Quantum ESPRESSO, J. Phys.: Condens. Matter 29, 465901 (2017)",
        "10.1088/1361-648X/aa8f79",
    ),
    Citation(
        "PBE",
        "J. P. Perdew, K. Burke, M. Ernzerhof, Generalized Gradient Approximation Made Simple, Phys. Rev. Lett. 77, 3865 (1996)",
        "10.1103/PhysRevLett.77.3865",
    ),
    Citation(
        "SSSP pseudopotentials (families sssp-…)",
        "G. Prandini, A. Marrazzo, I. E. Castelli, N. Mounet, N. Marzari, Precision and efficiency in solid-state pseudopotential "
        "calculations, npj Comput. Mater. 4, 72 (2018)",
        "10.1038/s41524-018-0127-2",
    ),
    Citation(
        "PseudoDojo pseudopotentials (families pseudo-dojo-…)",
        "M. J. van Setten et al., The PseudoDojo: Training and grading a 85 element optimized norm-conserving pseudopotential table, "
        "Comput. Phys. Commun. 226, 39 (2018)",
        "10.1016/j.cpc.2018.01.012",
    ),
    Citation(
        "Materials Project",
        "A. Jain et al., Commentary: The Materials Project: A materials genome approach to accelerating materials innovation, "
        "APL Mater. 1, 011002 (2013)",
        "10.1063/1.4812323",
    ),
    Citation(
        "pymatgen",
        "S. P. Ong et al., Python Materials Genomics (pymatgen), Comput. Mater. Sci. 68, 314 (2013)",
        "10.1016/j.commatsci.2012.10.028",
    ),
    Citation(
        "MP-20 and the validity rule",
        "T. Xie, X. Fu, O.-E. Ganea, R. Barzilay, T. Jaakkola, Crystal Diffusion Variational Autoencoder for Periodic Material "
        "Generation, ICLR (2022)",
        "10.48550/arXiv.2110.06197",
    ),
    Citation(
        "smact",
        "D. W. Davies, K. T. Butler, A. J. Jackson, J. M. Skelton, K. Morita, A. Walsh, SMACT: Semiconducting Materials by Analogy and "
        "Chemical Theory, J. Open Source Softw. 4, 1361 (2019)",
        "10.21105/joss.01361",
    ),
    Citation(
        "CrystalNN",
        "H. Pan et al., Benchmarking Coordination Number Prediction Algorithms on Inorganic Crystal Structures, Inorg. Chem. 60, 1590 (2021)",
        "10.1021/acs.inorgchem.0c02996",
    ),
    Citation(
        "3Dmol.js (draws the crystals of this page)",
        "N. Rego, D. Koes, 3Dmol.js: molecular visualization with WebGL, Bioinformatics 31, 1322 (2015)",
        "10.1093/bioinformatics/btu829",
    ),
    Citation(
        "Snakemake",
        "F. Mölder et al., Sustainable data analysis with Snakemake, F1000Research 10, 33 (2021)",
        "10.12688/f1000research.29032.2",
    ),
)
