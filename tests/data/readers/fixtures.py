"""Small sources of every format, made from the formats' descriptions; pictures are of one colour each."""

import base64
import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.data.sources import write_packed
from vilg.data.pairs import Items, Pair, Reject

# Six pairs as people keep them: id, captions.
SIX = {
    "cat": ["a cat on a mat", "一只猫"],
    "dog": ["a dog, running"],
    "bird": ['a bird that says "hello"'],
    "鱼": ["一条红色的鱼"],
    "tree": ["a tree", "a tall tree", "一棵高大的树"],
    "house": ["a house"],
}


def picture(number: int, kind: str = "PNG") -> bytes:
    """Return a file with a picture whose colour tells its number."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (number * 40 % 256, number, 255 - number)).save(stream, kind)
    return stream.getvalue()


def put(path: Path, content: bytes | str | Any) -> Path:
    """Write bytes, a text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content, ensure_ascii=False)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def put_pictures(folder: Path, *names: str) -> None:
    """Write a picture of each name."""
    for number, name in enumerate(names, 1):
        put(folder / name, picture(number, "PNG" if name.endswith("png") else "JPEG"))


def told(items: Items) -> list[tuple[object, ...]]:
    """Return what a test compares: ids, places and captions of pairs, places and reasons of rejects."""
    return [
        (item.place, item.reason)
        if isinstance(item, Reject)
        else (item.id, item.place, dict(item.captions))
        for item in items
    ]


def pairs_of(items: Items) -> list[Pair]:
    """Return the pairs alone."""
    return [item for item in items if isinstance(item, Pair)]


def names_of_six() -> Iterable[tuple[str, list[str], bytes]]:
    for number, (id, captions) in enumerate(SIX.items(), 1):
        yield id, captions, picture(number)


def six_pictures(folder: Path) -> None:
    """Write the pictures of the six pairs."""
    for id, _, content in names_of_six():
        put(folder / f"{id}.png", content)


def six_folder(folder: Path) -> Path:
    six_pictures(folder)
    for id, captions, _ in names_of_six():
        put(folder / f"{id}.txt", "".join(f"{line}\n" for line in captions))
    return folder


def six_jsonl(folder: Path) -> Path:
    six_pictures(folder)
    lines = [
        json.dumps({"image": f"{id}.png", "caption": captions}, ensure_ascii=False)
        for id, captions, _ in names_of_six()
    ]
    return put(folder / "six.jsonl", "\n".join(lines) + "\n")


def six_metadata(folder: Path) -> Path:
    six_pictures(folder)
    lines = [
        json.dumps({"file_name": f"{id}.png", "text": captions})
        for id, captions, _ in names_of_six()
    ]
    put(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    return folder


def six_csv(folder: Path) -> Path:
    six_pictures(folder)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["image", "caption"])
    writer.writerows([f"{id}.png", line] for id, lines, _ in names_of_six() for line in lines)
    return put(folder / "six.csv", stream.getvalue())


def six_tsv(folder: Path) -> Path:
    six_pictures(folder)
    rows = [f"{id}.png\t{line}\n" for id, lines, _ in names_of_six() for line in lines]
    return put(folder / "six.tsv", "image\tcaption\n" + "".join(rows))


def tar_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return an archive of named files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def six_tar(folder: Path) -> Path:
    members = list[tuple[str, bytes]]()
    for id, captions, content in names_of_six():
        members += [(f"{id}.png", content), (f"{id}.txt", "\n".join(captions).encode())]
    return put(folder / "six.tar", tar_of(members))


def six_parquet(folder: Path) -> Path:
    images = [{"bytes": content, "path": f"{id}.png"} for id, _, content in names_of_six()]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {
            "image": pyarrow.array(images, kind),
            "caption": pyarrow.array(list(SIX.values()), pyarrow.list_(pyarrow.string())),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, folder / "six.parquet", row_group_size=4)
    return folder / "six.parquet"


COCO_2014 = ("COCO_val2014_000000000009.jpg", "COCO_val2014_000000000025.jpg")


def coco(folder: Path) -> Path:
    put_pictures(folder / "val2014", *COCO_2014)
    images = [
        {"license": 3, "file_name": COCO_2014[0], "height": 6, "width": 8, "id": 9},
        {"license": 3, "file_name": COCO_2014[1], "height": 6, "width": 8, "id": 25},
        {"license": 3, "file_name": "COCO_val2014_000000000030.jpg", "id": 30},
    ]
    annotations = [
        {"image_id": 25, "id": 38, "caption": "A giraffe by a tree. "},
        {"image_id": 9, "id": 48, "caption": "A plate of food."},
        {"image_id": 25, "id": 57, "caption": "Two giraffes."},
        {"image_id": 30, "id": 58, "caption": "A vase."},
    ]
    content = {"info": {"year": 2014}, "images": images, "licenses": [], "annotations": annotations}
    return put(folder / "annotations" / "captions_val2014.json", content)


def coco_2017(folder: Path) -> Path:
    put_pictures(folder / "val2017", "000000000009.jpg")
    return put(
        folder / "annotations" / "captions_val2017.json",
        {
            "annotations": [{"image_id": 9, "id": 1, "caption": "A plate."}],
            "images": [{"file_name": "000000000009.jpg", "id": 9}],
        },
    )


def aic(folder: Path) -> Path:
    put_pictures(folder / "caption_validation_images_20170910", "3cd3.jpg", "88a0.jpg")
    five = [f"{number}个穿红衣服的人在跑步。" for number in "一两三四五"]
    return put(
        folder / "caption_validation_annotations_20170910.json",
        [
            {"url": "http://a.invalid/1", "image_id": "3cd3.jpg", "caption": five},
            {
                "url": "http://a.invalid/2",
                "image_id": "88a0.jpg",
                "caption": ["一条狗 。\n", "", "狗。"],
            },
        ],
    )


def vqa(folder: Path) -> Path:
    put_pictures(folder / "val2014", COCO_2014[0])
    answers = ["yes"] * 7 + ["no"] * 3
    annotations = [
        {
            "question_type": "is the",
            "multiple_choice_answer": "yes",
            "answers": [
                {"answer": answer, "answer_confidence": "maybe", "answer_id": number}
                for number, answer in enumerate(answers, 1)
            ],
            "image_id": 9,
            "answer_type": "yes/no",
            "question_id": 9000,
        },
        {"answers": [{"answer": "2"}], "image_id": 9, "question_id": 9001},
    ]
    put(
        folder / "v2_mscoco_val2014_annotations.json",
        {"info": {}, "annotations": annotations, "data_subtype": "val2014"},
    )
    questions = [
        {"image_id": 9, "question": "Is the plate full?", "question_id": 9000},
        {"image_id": 9, "question": "How many spoons?", "question_id": 9001},
    ]
    return put(
        folder / "v2_OpenEnded_mscoco_val2014_questions.json",
        {
            "info": {},
            "task_type": "Open-Ended",
            "data_type": "mscoco",
            "license": {},
            "data_subtype": "val2014",
            "questions": questions,
        },
    )


def gqa(folder: Path) -> Path:
    put_pictures(folder / "images", "2354786.jpg", "n161313.jpg")
    return put(
        folder / "val_balanced_questions.json",
        {
            "02930152": {
                "semantic": [{"operation": "select", "argument": "sky (2486325)"}],
                "imageId": "2354786",
                "question": "Is the sky dark?",
                "answer": "yes",
                "fullAnswer": "Yes, the sky is dark.",
            },
            "07333408": {
                "imageId": "n161313",
                "question": "What is on the wall?",
                "answer": "pipe",
            },
            "07333405": {"imageId": "2354786", "question": "Is it a bird?", "answer": "no"},
        },
    )


def fmiqa(folder: Path) -> Path:
    put_pictures(folder / "train2014", "COCO_train2014_000000000009.jpg")
    put_pictures(folder / "val2014", COCO_2014[1])
    train = [
        {"image_id": "9", "question_id": "1", "Question": "这是什么？", "Answer": "一盘菜。"},
        {"image_id": "9", "question_id": "2", "Question": "有几把勺子？", "Answer": "两把。"},
    ]
    val = [{"image_id": "25", "question_id": "3", "Question": "这是什么？", "Answer": "长颈鹿。"}]
    return put(folder / "FM-IQA.json", {"train": train, "val": val})


def coco_cn(folder: Path) -> Path:
    put_pictures(folder / "val2014", *COCO_2014)
    first, second = (name.removesuffix(".jpg") for name in COCO_2014)
    put(folder / "coco-cn_train.txt", f"{first}\n")
    put(folder / "coco-cn_test.txt", f"{second}\nCOCO_val2014_000000000030\n")
    put(
        folder / "imageid.human-written-caption.txt",
        f"{first}#0\t一盘菜。\n{second}#0\t长颈鹿站在树下。\n{first}#1\t桌子上有菜。\n",
    )
    put(
        folder / "imageid.human-written-tags.txt",
        f"{first} 盘子 菜\nCOCO_val2014_000000000030 狗\n{second}\n",
    )
    put(folder / "imageid.human-written-caption.bosonseg.txt", f"{first}#0\t一 盘 菜\n")
    put(folder / "imageid.manually-translated-caption.txt", f"{second}#0\t两只长颈鹿。\n")
    return folder


def flickr8k(folder: Path) -> Path:
    put_pictures(folder / "Flicker8k_Dataset", "1000_a.jpg", "1001_b.jpg")
    put(folder / "Flickr8k.lemma.token.txt", "1000_a.jpg#0\ta dog run .\n")
    put(folder / "CrowdFlowerAnnotations.txt", "1000_a.jpg\t1001_b.jpg#2\t1\t3\t0\n")
    put(folder / "Flickr_8k.trainImages.txt", "1000_a.jpg\n")
    return put(
        folder / "Flickr8k.token.txt",
        "1000_a.jpg#0\tA dog runs .\n1000_a.jpg#1\tA brown dog .\n1001_b.jpg#0\tA girl .\n",
    )


def flickr30k(folder: Path) -> Path:
    put_pictures(folder / "flickr30k-images", "1000092795.jpg")
    return put(folder / "results_20130124.token", "1000092795.jpg#0\tTwo young guys .\n")


def flickr_table(folder: Path) -> Path:
    put_pictures(folder / "Images", "1000_a.jpg", "1001_b.jpg")
    return put(
        folder / "captions.txt",
        'image,caption\n1000_a.jpg,A dog runs .\n1000_a.jpg,"A dog , brown ."\n1001_b.jpg,A girl .\n',
    )


def flickr8k_cn(folder: Path) -> Path:
    put_pictures(folder, "1000_a.jpg", "1001_b.jpg")
    put(folder / "flickr8kenc.caption.txt", "1000_a.jpg#enc#0 A dog runs .\n")
    put(
        folder / "flickr8kzhc.caption.txt",
        "1000_a.jpg#zhc#0 一条狗在跑\n1001_b.jpg#zhc#0 一个女孩\n",
    )
    put(folder / "flickr8kzhb.caption.txt", "1000_a.jpg#zhb#0 狗跑\n")
    put(folder / "flickr8ktrain.txt", "1000_a\n")
    put(folder / "flickr8ktest.txt", "1001_b\n1002_c\n")
    return folder


def muge(folder: Path) -> Path:
    rows = [f"{number}\t{base64.b64encode(picture(number)).decode()}\n" for number in (1, 2, 3)]
    put(folder / "T2I_val.img.tsv", "".join(rows))
    return put(folder / "T2I_val.text.tsv", "2\t白色的连衣裙\n1\t红色的鞋\n4\t蓝色的包\n")


def vilg_300(folder: Path) -> Path:
    return put(
        folder / "ViLG-300.csv",
        'Prompt,文本,类别,来源\n"a cat,\nasleep","一只猫，\n睡着了",Simple,COCO-CN\na dog,一条狗,Complex,DrawBench\n',
    )


def parti(folder: Path) -> Path:
    return put(
        folder / "PartiPrompts.tsv",
        'Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tBiology\n"a" sign\tArts\tBasic\t\n',
    )


def geneval(folder: Path) -> Path:
    lines = [
        {
            "tag": "counting",
            "include": [{"class": "bench", "count": 2}],
            "prompt": "a photo of two benches",
        },
        {
            "tag": "single_object",
            "include": [{"class": "cow", "count": 1}],
            "prompt": "a photo of a cow",
        },
    ]
    return put(
        folder / "evaluation_metadata.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines)
    )


def prompt_lines(folder: Path) -> Path:
    return put(folder / "prompts.txt", "a cat\n\n一条狗\n")


def packed(folder: Path) -> Path:
    pairs = [
        Pair(id=id, place=id, picture=partial(bytes, content), captions={"en": ("a picture",)})
        for id, _, content in names_of_six()
    ]
    return write_packed(folder, pairs, {"train": ["cat", "dog"]})


Make = Callable[[Path], Path]
# By a name of its own: what makes it, the format it is recognised as, and whether a line is an item.
FIXTURES: dict[str, tuple[Make, str, bool]] = {
    "packed": (packed, "packed", False),
    "folder": (six_folder, "folder", False),
    "jsonl": (six_jsonl, "JSON lines", True),
    "metadata": (six_metadata, "metadata", False),
    "csv": (six_csv, "table", False),
    "tsv": (six_tsv, "table", False),
    "tar": (six_tar, "tar", False),
    "parquet": (six_parquet, "parquet", False),
    "coco": (coco, "COCO captions", False),
    "coco 2017": (coco_2017, "COCO captions", False),
    "aic": (aic, "AIC-ICC", False),
    "vqa": (vqa, "VQAv2", False),
    "gqa": (gqa, "GQA", False),
    "fmiqa": (fmiqa, "FM-IQA", False),
    "coco-cn": (coco_cn, "COCO-CN", False),
    "flickr8k": (flickr8k, "Flickr", False),
    "flickr30k": (flickr30k, "Flickr", False),
    "captions.txt": (flickr_table, "Flickr", False),
    "flickr8k-cn": (flickr8k_cn, "Flickr8k-CN", False),
    "muge": (muge, "MUGE", False),
    "vilg-300": (vilg_300, "prompts", False),
    "parti": (parti, "prompts", True),
    "geneval": (geneval, "prompts", True),
    "prompts": (prompt_lines, "prompts", True),
}
