"""The distillation losses in NumPy: float64, image by image.

Independent of the code under test.
"""

import numpy as np


def log_softmax(logits):
    return logits - np.logaddexp.reduce(logits)


def _kl(log_p, log_q):
    return np.sum(np.exp(log_p) * (log_p - log_q))


def expected_kd(labels, teacher, student, temperature):
    pairs = zip(teacher / temperature, student / temperature, strict=True)
    return temperature**2 * np.array(
        [_kl(log_softmax(t), log_softmax(s)) for t, s in pairs]
    )


def expected_dkd(labels, teacher, student, temperature, alpha=1.0, beta=8.0):
    losses = []
    for label, *rows in zip(labels, teacher, student, strict=True):
        logits = [row / temperature for row in rows]
        others = [np.delete(row, label) for row in logits]
        binary = [
            log_softmax(np.array([row[label], np.logaddexp.reduce(other)]))
            for row, other in zip(logits, others, strict=True)
        ]
        losses.append(
            alpha * _kl(*binary) + beta * _kl(*map(log_softmax, others))
        )
    return temperature**2 * np.array(losses)


def expected_standardized(labels, teacher, student, temperature):
    teacher, student = (
        (x - x.mean(1, keepdims=True)) / np.hypot(x.std(1, keepdims=True), 1e-7)
        for x in (teacher, student)
    )
    return expected_kd(labels, teacher, student, temperature)


def expected_dist(labels, teacher, student, temperature, beta=1.0, gamma=1.0):
    def distance(a, b):
        a, b = a - a.mean(), b - b.mean()
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        return 1 - a @ b / np.hypot(norms, 1e-8)

    teacher, student = (
        np.exp([log_softmax(row / temperature) for row in x])
        for x in (teacher, student)
    )
    inter = [distance(*pair) for pair in zip(teacher, student, strict=True)]
    intra = [distance(*pair) for pair in zip(teacher.T, student.T, strict=True)]
    return temperature**2 * (beta * np.array(inter) + gamma * np.mean(intra))


EXPECTED = {
    "kd": expected_kd,
    "dkd": expected_dkd,
    "standardized_kd": expected_standardized,
    "dist": expected_dist,
}


def finite_differences(name, labels, teacher, student, temperature):
    teacher, student = teacher.astype("float64"), student.astype("float64")
    gradient = np.zeros_like(student)
    for index in np.ndindex(student.shape):
        step = np.zeros_like(student)
        step[index] = 1e-5
        up, down = (
            EXPECTED[name](labels, teacher, moved, temperature).mean()
            for moved in (student + step, student - step)
        )
        gradient[index] = (up - down) / 2e-5
    return gradient
