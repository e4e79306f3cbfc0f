"""The losses of the field's table in float64 NumPy, written from the formulas with loops."""

import math

import numpy as np

from tests.unit.losses_reference import log_softmax, softmax, unit


def pool(image, height, width):
    """[H, W] to [height, width] by adaptive average pooling."""
    found = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            top, bottom = (
                math.floor(i * image.shape[0] / height),
                math.ceil((i + 1) * image.shape[0] / height),
            )
            left, right = math.floor(j * image.shape[1] / width), math.ceil((j + 1) * image.shape[1] / width)
            found[i, j] = image[top:bottom, left:right].mean()
    return found


def pool_all(maps, height, width):
    return np.array([[pool(channel, height, width) for channel in image] for image in maps])


def pool_to_match(first, second):
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return pool_all(first, *size), pool_all(second, *size)


def mean_square(difference):
    return math.fsum((difference**2).ravel()) / difference.size


def correlations(image, normalised=True):
    """[C, H, W] to [C, C]."""
    gram = np.array([[math.fsum((a * b).ravel()) for b in image] for a in image])
    return np.array([unit(row) for row in gram]) if normalised else gram


def inter_channel_correlation(student, teacher, form="cifar", grid=1):
    batch, channels, height, width = student.shape
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for i in range(grid):
            for j in range(grid):
                patches = []
                for image in (s, t):
                    height, width = image.shape[1:]
                    rows = slice(math.floor(i * height / grid), math.ceil((i + 1) * height / grid))
                    columns = slice(math.floor(j * width / grid), math.ceil((j + 1) * width / grid))
                    patches.append(correlations(image[:, rows, columns], form != "paper"))
                total += math.fsum(((patches[0] - patches[1]) ** 2).ravel())
    divisor = {"cifar": channels, "imagenet": channels * batch, "paper": channels**2}[form]
    return total / (batch * grid**2 * divisor)


def similarity_preserving(student, teacher):
    def similarities(maps):
        rows = maps.reshape(len(maps), -1)
        return np.array([unit([math.fsum(a * b) for b in rows] * np.ones(len(rows))) for a in rows])

    return math.fsum(((similarities(student) - similarities(teacher)) ** 2).ravel()) / len(student) ** 2


def correlation_congruence(student, teacher, form="released"):
    batch = len(student)
    if form == "released":
        total = 0.0
        for i in range(batch - 1):
            now, following = abs(student[i] - teacher[i]), abs(student[i + 1] - teacher[i + 1])
            total += math.fsum(now * following)
        return total / max(batch - 1, 1)

    def kernel(x, y):
        x, y = unit(x), unit(y)
        return math.exp(-0.8) * sum(0.8**p / math.factorial(p) * math.fsum(x * y) ** p for p in (0, 1, 2))

    return (
        math.fsum(
            (kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2
            for i in range(batch)
            for j in range(batch)
        )
        / batch**2
    )


def variational_information(mean, teacher, variance):
    return (
        math.fsum(
            ((mean[i] - teacher[i]) ** 2 / variance[i[1]] + math.log(variance[i[1]])) / 2
            for i in np.ndindex(*mean.shape)
        )
        / mean.size
    )


def probabilistic_transfer(student, teacher):
    def neighbours(features):
        directions = [row / (math.sqrt(math.fsum(row**2)) + 1e-7) for row in features]
        similar = np.array([[(math.fsum(a * b) + 1) / 2 for b in directions] for a in directions])
        return np.array([row / math.fsum(row) for row in similar])

    s, t = neighbours(student), neighbours(teacher)
    return (
        math.fsum(b * math.log((b + 1e-7) / (a + 1e-7)) for a, b in zip(s.flat, t.flat, strict=True)) / s.size
    )


def neuron_selectivity(student, teacher):
    total = 0.0
    for s, t in zip(*pool_to_match(student, teacher), strict=True):
        ours, theirs = ([unit(channel.ravel()) for channel in image] for image in (s, t))

        def kernel(first, second):
            return math.fsum(math.fsum(a * b) ** 2 for a in first for b in second) / len(first) / len(second)

        total += kernel(theirs, theirs) + kernel(ours, ours) - 2 * kernel(ours, theirs)
    return total / len(student)


def activation_boundaries(student_maps, teacher_maps):
    total, count = 0.0, len(student_maps)
    for stage, (student, teacher) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        part = 0.0
        for s, t in zip(student.flat, teacher.flat, strict=True):
            if t <= 0 and s > -1:
                part += (s + 1) ** 2
            elif t > 0 and s <= 1:
                part += (s - 1) ** 2
        total += part * 2.0 ** (stage - count + 1) / len(student)
    return total * 3 / 1000


def factor_transfer(student, teacher, form="released"):
    total = 0.0
    pooled = pool_to_match(student, teacher)
    for s, t in zip(*pooled, strict=True):
        if form == "paper":
            total += math.fsum(abs(unit(s.ravel()) - unit(t.ravel())))
        else:
            gap = unit((s**2).mean(0).ravel()) - unit((t**2).mean(0).ravel())
            total += math.fsum(abs(gap)) / gap.size
    return total / len(student)


def flow_of_solution(student_maps, teacher_maps, form="released"):
    def flow(before, after):
        before, after = pool_to_match(before, after)
        return np.array(
            [[[np.mean(a * b) for b in y] for a in x] for x, y in zip(before, after, strict=True)]
        )

    total = 0.0
    for level in range(len(student_maps) - 1):
        ours, theirs = (flow(maps[level], maps[level + 1]) for maps in (student_maps, teacher_maps))
        total += mean_square(ours - theirs) * (ours[0].size if form == "paper" else 1)
    return total


def decoupled_kd(student, teacher, labels, target_weight=1.0, nontarget_weight=8.0, temperature=4.0):
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        others = [k for k in range(len(s)) if k != y]
        rest_p, rest_q = math.fsum(p[others]), math.fsum(q[others])
        binary = p[y] * math.log(p[y] / q[y]) + rest_p * math.log(rest_p / rest_q)
        log_p, log_q = log_softmax(t[others], temperature), log_softmax(s[others], temperature)
        rest = math.fsum(np.exp(log_p) * (log_p - log_q))
        total += target_weight * binary + nontarget_weight * rest
    return temperature**2 * total / len(student)


def hierarchical_context(student, teacher):
    height = student.shape[2]
    total, weights, factor = mean_square(student - teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side < height:
            factor /= 2
            total += factor * mean_square(pool_all(student, side, side) - pool_all(teacher, side, side))
            weights += factor
    return total / weights


def regressed_representation(student_logits, teacher_logits, student_pooled, teacher_pooled):
    return mean_square(student_logits - teacher_logits) + mean_square(student_pooled - teacher_pooled)


def channel_wise_kl(student, teacher, temperature=4.0):
    total = 0.0
    for index in np.ndindex(*student.shape[:2]):
        log_p, log_q = (log_softmax(one[index].ravel(), temperature) for one in (teacher, student))
        total += math.fsum(np.exp(log_p) * (log_p - log_q))
    return temperature**2 * total / (student.shape[0] * student.shape[1])


def contrastive_representation(
    student, teacher, student_bank, teacher_bank, indices, temperature=0.07, momentum=0.5, normalisers=None
):
    rows, negatives, batch = len(student_bank), indices.shape[1] - 1, len(student)
    noise, total, used, banks = negatives / rows, 0.0, [], []
    for side, (embedding, bank) in enumerate(((student, teacher_bank), (teacher, student_bank))):
        scores = np.array(
            [
                [math.exp(math.fsum(v * bank[j]) / temperature) for j in places]
                for v, places in zip(embedding, indices, strict=True)
            ]
        )
        used.append(scores.mean() * rows if normalisers is None else normalisers[side])
        p = scores / used[side]
        for row in p:
            total -= math.log(row[0] / (row[0] + noise + 1e-7)) / batch
            total -= math.fsum(math.log(noise / (x + noise + 1e-7)) for x in row[1:]) / batch
    for embedding, bank in ((student, student_bank), (teacher, teacher_bank)):
        bank = bank.copy()
        for v, places in zip(embedding, indices, strict=True):
            bank[places[0]] = unit(momentum * bank[places[0]] + (1 - momentum) * v)
        banks.append(bank)
    return total, *banks, tuple(used)
