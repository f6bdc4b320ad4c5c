"""Sweep files that ask for too much, or go too deep."""

import pytest

from gnsmall_keras.sweeps import plan


def _chain(length, teachers=1):
    """Tables that each learn from all `teachers` tables of the next level."""
    lines = ['[[runs]]\nstrategy = "ensemble"']
    names = [f'"@t0_{n}"' for n in range(teachers)]
    lines.append(f"teachers = [{', '.join(names)}]")
    for level in range(length):
        for number in range(teachers):
            lines.append(f"[teachers.t{level}_{number}]")
            lines.append(f"width = {1 + level / 100 + number / 10_000}")
            if level < length - 1:
                names = [f'"@t{level + 1}_{n}"' for n in range(teachers)]
                lines.append('strategy = "ensemble"')
                lines.append(f"teachers = [{', '.join(names)}]")
    return "\n".join(lines)


def _read(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return plan.read_sweep(path)


def test_endless_chain_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 50 teachers"):
        _read(tmp_path, _chain(2000))


def test_deep_arrays_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nested so deeply"):
        _read(tmp_path, "a = " + "[" * 5000 + "]" * 5000)


def test_work_does_not_double_with_each_level(tmp_path, monkeypatch):
    built = []
    build = plan._Teachers.build

    def counted(self, *arguments):
        built.append(1)
        return build(self, *arguments)

    monkeypatch.setattr(plan._Teachers, "build", counted)
    sweep = _read(tmp_path, _chain(14, teachers=2))
    assert len(sweep.teacher_configs) == 28
    assert len(built) == 29  # each once; without a memory 2^15


def test_too_many_combinations_are_refused_by_number(tmp_path):
    lists = "\n".join(
        f"{name} = [{', '.join(map(str, range(1, 101)))}]"
        for name in ("seed", "epochs", "batch_size")
    )
    with pytest.raises(ValueError, match="1,000,000 combinations"):
        _read(tmp_path, f"[grid]\n{lists}")


def test_seed_of_more_than_32_bits_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seed"):
        _read(tmp_path, f"[[runs]]\nseed = {2**32}")
