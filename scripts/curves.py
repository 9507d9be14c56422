"""The numbers of a line of metrics.jsonl by the names of crates/train/src/scalars.rs."""


def scalars_of(line):
    if line["kind"] == "step":
        yield "loss/train", line["loss"]
        yield "gradient_norm", line["gradient_norm"]
        yield "learning_rate", line["lr"]
        if "tokens_per_second" in line:
            yield "tokens_per_second", line["tokens_per_second"]
        return
    yield "loss/validation", line["loss"]
    twins = line.get("twins")
    for index, layer in enumerate(line.get("routing", [])):
        for name in ["max_violation", "dead_experts", "entropy"] + ["twin_coselection"] * bool(twins):
            yield f"routing/layer_{index}/{name}", layer[name]
    if twins:
        yield "twins/cosine", twins["cosine"]
        yield "twins/coselection", twins["coselection"]
