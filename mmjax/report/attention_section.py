"""The report's part about a model's inside: images with attention and similarity maps, and strips of words."""

from mmjax.evaluation.example_selection import Inside, Look
from mmjax.evaluation.heatmaps import gradient
from mmjax.report.markup import escape, image

_NOTE = (
    "Attention shows where information may pass, not why the model answers as it does: what is looked at need not"
    " matter, and what matters may have come another way."
)


def render(shown: list[Inside], dataset: str) -> str:
    """The section of one dataset; nothing where nothing is shown."""
    if not shown:
        return ""
    cards = "".join(map(_card, shown))
    return (
        f"<h2>Looking inside: {escape(dataset)}</h2><p>{_explain(shown)}{_NOTE}</p>"
        f"<div class=scale><span>low</span><i style='background:linear-gradient(90deg,{','.join(gradient())})'></i>"
        f"<span>high</span></div><div class=insides>{cards}</div>"
    )


def _explain(shown: list[Inside]) -> str:
    """What the kinds of maps are, those that there are."""
    titles = " ".join(look.title for each in shown for look in each.maps)
    told = ""
    if "rollout" in titles:
        told += (
            "Attention of what is embedded to each patch, the mean over heads: in the last layer, and rolled out"
            " through all layers and residual connections; each map has its own scale. "
        )
    if "own text" in titles:
        told += (
            "Similarity is that of each patch, embedded as if it were the whole image, with a text: patches were not"
            " trained for it. The maps of an image share a scale; the number is the whole image's. "
        )
    if any(each.words for each in shown):
        told += "Words are shown with the patches that the last layer attends to for them, on one scale an image. "
    return told


def _card(each: Inside) -> str:
    maps = "".join(map(_figure, each.maps))
    words = ""
    if each.words:
        figures = "".join(map(_figure, each.words))
        words = f"<h3>{escape(each.words_title)}</h3><div class='looks words'>{figures}</div>"
    return f"<div class='card inside'><div class=looks>{maps}</div>{words}</div>"


def _figure(look: Look) -> str:
    title = escape(look.title)
    detail = f"<span>{escape(look.detail)}</span>" if look.detail else ""
    return f"<figure>{image(look.picture, title)}<figcaption>{title}{detail}</figcaption></figure>"
