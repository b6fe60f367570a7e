"""OpenAI's images: a prompt, and for edits the images as a form; images back as base64, as URLs, or streamed.

An image is recorded by the digest of its own bytes. Partial images of a stream are parts too, as `partial_image`, and
no part of `content`: whoever asks for none gets the same answer.

Source: platform.openai.com/docs/api-reference/images, images-streaming.
"""

from __future__ import annotations

from typing import Any

from genealog.capture.dialects import media
from genealog.capture.dialects.foreign import Unreadable, as_dict, as_list, as_strings, as_word, joined, read_object
from genealog.capture.dialects.multipart import FormPart, read_form
from genealog.capture.dialects.openai_common import (
    CONTENT,
    answered,
    error_code,
    form_parameters,
    not_understood,
    parameters,
    prompt_parts,
    subject,
    usage_counts,
)
from genealog.core.call_groups import Part, RequestFacts, ResponseFacts
from genealog.core.canonical import encode

_PARTIAL = (".partial_image",)
_COMPLETED = (".completed",)


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`: JSON, or a form."""
    try:
        if (content_type or "").lower().startswith("multipart/"):
            return _form(read_form(body, content_type))
        request = read_object(body)
        parts, texts = prompt_parts(request.get("prompt"))
        return RequestFacts(
            parameters=parameters(request, "prompt"),
            sampler={},
            parts=parts,
            last_texts=texts,
            subject=subject(request),
        )
    except Unreadable as error:
        return RequestFacts({}, {}, malformed=str(error))
    except RecursionError:
        return RequestFacts({}, {}, malformed="json-too-deep")


def _form(fields: tuple[FormPart, ...]) -> RequestFacts:
    values = {field.name: field.text for field in fields if not field.file}
    prompt = [field for field in fields if field.name == "prompt" and not field.file]
    parts = [Part(index=0, role="user", sha256=field.sha256, type="text") for field in prompt]
    return RequestFacts(
        parameters=form_parameters(fields, "prompt"),
        sampler={},
        parts=tuple(parts + uploads(fields, "image")),
        last_texts=tuple(field.text for field in prompt if field.text),
        subject=subject(values),
    )


def uploads(fields: tuple[FormPart, ...], kind: str) -> list[Part]:
    """Return the files of a form: of type `kind`, or of their field's name where that is another, such as `mask`."""
    return [
        Part(
            index=0,
            role="user",
            sha256=field.sha256,
            type=kind if field.name.removesuffix("[]") in (kind, "file") else as_word(field.name) or kind,
            media_type=field.media_type,
            size=field.size,
        )
        for field in fields
        if field.file
    ]


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`: JSON, or a stream of events that may end anywhere."""
    return answered(_Answer(), body, status=status, content_type=content_type, content_encoding=content_encoding)


class _Answer:
    def __init__(self) -> None:
        self.images: list[tuple[media.Media, str | None]] = []
        self.partial: list[media.Media] = []
        self.usage: dict[str, int] | None = None
        self.error: str | None = None
        self.model: str | None = None

    def take(self, item: dict[str, Any]) -> None:
        """Add the whole response, or one event."""
        kind = as_word(item.get("type")) or ""
        self.model = as_word(item.get("model")) or self.model
        if usage := as_dict(item.get("usage")):
            self.usage = usage_counts(usage)
        if (error := item.get("error")) is not None or kind == "error":
            self.error = error_code(item if error is None else error)
        output = media.image_type(item.get("output_format"))
        if kind.endswith(_PARTIAL):
            self.partial.append(_image(item, output))
        elif kind.endswith(_COMPLETED):
            self.images.append((_image(item, output), None))
        for image in as_list(item.get("data")):
            fields = as_dict(image)
            revised = as_strings(fields.get("revised_prompt"))
            self.images.append((_image(fields, output), joined(revised) if revised else None))

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected."""
        parts = [image.part(index, "assistant", "image") for index, (image, _) in enumerate(self.images)]
        parts += [image.part(index, "assistant", "partial_image") for index, image in enumerate(self.partial)]
        content = None
        if self.images and malformed is None:
            content = encode({"images": [_spelled(image, revised) for image, revised in self.images], "t": CONTENT})
        images = {"images": len(self.images)} if self.images else {}
        return ResponseFacts(
            content=content,
            usage={**(self.usage or {}), **images} or self.usage,
            parts=tuple(parts) if malformed is None else (),
            model=self.model,
            error=self.error,
            malformed=malformed,
        )


def _image(fields: dict[str, Any], media_type: str | None) -> media.Media:
    for data in as_strings(fields.get("b64_json")):
        if (found := media.of_base64(data, media_type)) is not None:
            return found
    for url in as_strings(fields.get("url")):
        return media.of_url(url)
    raise not_understood()


def _spelled(image: media.Media, revised: str | None) -> dict[str, Any]:
    size = {} if image.size is None else {"size": image.size}
    prompt = {} if revised is None else {"revised_prompt": revised}
    return {"sha256": image.sha256, "type": "image", **size, **prompt}
