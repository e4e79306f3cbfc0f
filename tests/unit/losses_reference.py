"""The losses once more, in float64 NumPy, written from the formulas with loops: what
tests/unit/test_losses.py compares with.
"""

import math

import numpy as np


def softmax(row, temperature=1.0):
    weights = [math.exp((z - max(row)) / temperature) for z in row]
    return np.array([w / math.fsum(weights) for w in weights])


def log_softmax(row, temperature=1.0):
    top = max(row)
    log_sum = math.log(math.fsum(math.exp((z - top) / temperature) for z in row))
    return np.array([(z - top) / temperature - log_sum for z in row])


def kl(p_logits, q_logits, temperature):
    log_p, log_q = log_softmax(p_logits, temperature), log_softmax(q_logits, temperature)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))


def cross_entropy(logits, labels):
    return math.fsum(-log_softmax(row)[y] for row, y in zip(logits, labels, strict=True)) / len(labels)


def cross_entropy_gradient(logits, labels):
    gradient = np.zeros_like(logits)
    for b, y in enumerate(labels):
        gradient[b] = softmax(logits[b])
        gradient[b, y] -= 1
    return gradient / len(labels)


def smoothed_cross_entropy(logits, labels, smoothing):
    total = 0.0
    for row, y in zip(logits, labels, strict=True):
        target = np.full(len(row), smoothing / len(row))
        target[y] += 1 - smoothing
        total -= math.fsum(target * log_softmax(row))
    return total / len(labels)


def smoothed_cross_entropy_gradient(logits, labels, smoothing):
    gradient = np.array([softmax(row) for row in logits]) - smoothing / logits.shape[1]
    gradient[np.arange(len(labels)), labels] -= 1 - smoothing
    return gradient / len(labels)


def kd(student, teacher, temperature):
    return (
        temperature**2
        * math.fsum(kl(t, s, temperature) for s, t in zip(student, teacher, strict=True))
        / len(student)
    )


def kd_gradient(student, teacher, temperature):
    rows = [softmax(s, temperature) - softmax(t, temperature) for s, t in zip(student, teacher, strict=True)]
    return temperature * np.array(rows) / len(student)


def guided_kd(student, teacher, labels, temperature):
    kept = [b for b, y in enumerate(labels) if int(np.argmax(teacher[b])) == y]
    return kd(student[kept], teacher[kept], temperature) if kept else 0.0


def guided_kd_gradient(student, teacher, labels, temperature):
    kept = [b for b, y in enumerate(labels) if int(np.argmax(teacher[b])) == y]
    gradient = np.zeros_like(student)
    if kept:
        gradient[kept] = kd_gradient(student[kept], teacher[kept], temperature)
    return gradient


def channel_distillation(student_maps, teacher_maps):
    total = 0.0
    for s, t in zip(student_maps, teacher_maps, strict=True):
        batch, channels = s.shape[:2]
        gaps = [
            s[b, c].sum() / s[b, c].size - t[b, c].sum() / t[b, c].size
            for b in range(batch)
            for c in range(channels)
        ]
        total += math.fsum(gap * gap for gap in gaps) / (batch * channels)
    return total


def channel_distillation_gradient(student_maps, teacher_maps):
    gradients = []
    for s, t in zip(student_maps, teacher_maps, strict=True):
        gradient = np.empty_like(s)
        for b, c in np.ndindex(*s.shape[:2]):
            gradient[b, c] = 2 * (s[b, c].mean() - t[b, c].mean()) / s.size
        gradients.append(gradient)
    return gradients


def hint(student, teacher, form):
    total = math.fsum((student[i] - teacher[i]) ** 2 for i in np.ndindex(*student.shape))
    batch, channels, height, width = student.shape
    return (
        total / 2 / (batch * height * width)
        if form == "paper"
        else total / (batch * channels * height * width)
    )


def hint_gradient(student, teacher, form):
    batch, _, height, width = student.shape
    return (
        (student - teacher) / (batch * height * width)
        if form == "paper"
        else 2 * (student - teacher) / student.size
    )


def pool(image, height, width):
    """[H, W] to [height, width] by means over equal blocks."""
    down, right = image.shape[0] // height, image.shape[1] // width
    return np.array(
        [
            [image[down * i : down * (i + 1), right * j : right * (j + 1)].mean() for j in range(width)]
            for i in range(height)
        ]
    )


def unit(vector):
    return vector / max(math.sqrt(math.fsum(v * v for v in vector)), 1e-12)


def attention(image, height, width):
    """[C, H, W] to [height * width]."""
    return unit(np.mean([pool(channel, height, width) ** 2 for channel in image], axis=0).ravel())


def attention_transfer(student_maps, teacher_maps, form):
    total = 0.0
    for s, t in zip(student_maps, teacher_maps, strict=True):
        size = min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])
        squares = [
            math.fsum((attention(a, *size) - attention(b, *size)) ** 2) for a, b in zip(s, t, strict=True)
        ]
        if form == "paper":
            total += math.fsum(math.sqrt(square) for square in squares) / len(s) / 2
        else:
            total += math.fsum(squares) / len(s) / (size[0] * size[1])
    return total


def huber(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def distances(features):
    batch = len(features)
    found = np.zeros((batch, batch))
    for i in range(batch):
        for j in range(batch):
            if i != j:
                found[i, j] = math.sqrt(max(math.fsum((features[i] - features[j]) ** 2), 1e-12))
    positive = [d for d in found.ravel() if d > 0]
    return found / (math.fsum(positive) / len(positive))


def angle(features, i, j, k):
    return math.fsum(unit(features[j] - features[i]) * unit(features[k] - features[i]))


def relational_kd(student, teacher, distance_weight, angle_weight):
    batch = len(student)
    if batch == 1:
        return 0.0
    pairs = np.ndindex(batch, batch)
    triples = np.ndindex(batch, batch, batch)
    s, t = distances(student), distances(teacher)
    distance = math.fsum(huber(s[pair] - t[pair]) for pair in pairs) / batch**2
    angles = (
        math.fsum(huber(angle(student, *triple) - angle(teacher, *triple)) for triple in triples) / batch**3
    )
    return distance_weight * distance + angle_weight * angles
