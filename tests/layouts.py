"""Small copies of the layouts that datasets are published in."""

import json

import numpy as np
import openpyxl
from PIL import Image
from scipy.io import savemat


def write_images(folder, names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number % 256, number // 256, 0)).save(path)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_sheet(path, rows, title="Sheet1", other=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    if other:
        book.active.title = other
        book.create_sheet(title)
    else:
        book.active.title = title
    for row in rows:
        book[title].append(row)
    book.save(path)


def cells(names):
    """MATLAB's cell array of strings."""
    array = np.empty(len(names), dtype=object)
    array[:] = names
    return array


SETS = [
    "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set",
    "10004473376.jpg,0.0,0.0,0.238095238095,0.695238095238,0.0666666666667,105,77.3836206897,0.527277894494,training",
    "10007357496.jpg,0.0,0.03125,0.46875,0.489583333333,0.0104166666667,96,68.7285714286,0.580003024795,test",
    "10007903636.jpg,0.0104166666667,0.0,0.208333333333,0.760416666667,0.0208333333333,96,78.6285714286,0.527219619,validation",
]
DISTRIBUTIONS = [
    '"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"',
    '"10004473376.jpg",0,0,25,73,7,105,3.82857142857143,0.527277894494,77.3836206896552',
    '"10007357496.jpg",0,3,45,47,1,96,3.47916666666667,0.580003024795,68.7285714285714',
    '"10007903636.jpg",1,0,20,73,2,96,3.78125,0.527219619,78.6285714285714',
]
KONIQ_NAMES = ["10004473376.jpg", "10007357496.jpg", "10007903636.jpg"]


def koniq_sets(folder):
    write_text(folder / "koniq10k_distributions_sets.csv", "\n".join(SETS) + "\n")
    write_images(folder / "1024x768", KONIQ_NAMES)


def koniq_distributions(folder):
    write_text(folder / "koniq10k_scores_and_distributions.csv", "\n".join(DISTRIBUTIONS) + "\n")
    write_images(folder / "512x384", KONIQ_NAMES)


def koniq_json(folder):
    rows = [{"image": name, "score": score} for name, score in zip(KONIQ_NAMES, (77.4, 68.7, 78.6), strict=True)]
    write_text(folder / "koniq_train.json", json.dumps(rows[:2]))
    write_text(folder / "koniq_test.json", json.dumps(rows[2:]))
    write_images(folder / "train", KONIQ_NAMES[:2])
    write_images(folder / "test", KONIQ_NAMES[2:])


def spaq(folder):
    head = ["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    rows = [["00001.jpg", 48.86, 50, 50, 50, 50, 50], ["00002.jpg", 62.5, 50, 50, 50, 50, 50]]
    write_sheet(folder / "Annotations" / "MOS and Image attribute scores.xlsx", [head, *rows])
    write_images(folder / "TestImage", ["00001.jpg", "00002.jpg"])


def spaq_json(folder):
    rows = [{"image": f"spaq_test/0000{i}.jpg", "score": str(48.86 + i)} for i in (1, 2)]
    write_text(folder / "spaq_test.json", json.dumps(rows))
    write_images(folder, ["00001.jpg", "00002.jpg"])


def kadid(folder):
    names = [f"I{r:02d}_{k:02d}_{level:02d}.png" for r in range(1, 11) for k in (1, 25) for level in (1, 5)]
    rows = [f"{name},{name[:3]}.png,{1 + i / 10:.2f},0.496" for i, name in enumerate(names)]
    write_text(folder / "dmos.csv", "\n".join(["dist_img,ref_img,dmos,var", *rows]))
    write_images(folder / "images", [*names, *(f"I{r:02d}.png" for r in range(1, 11))])


def kadid_json(folder):
    rows = [
        {"image": f"/root/kadid/images/I0{r}_01_0{level}.png", "score": 5.0 - level} for r in (1, 2) for level in (1, 4)
    ]
    write_text(folder / "kadid_test.json", json.dumps(rows))
    write_images(folder / "images", [row["image"].split("/")[-1] for row in rows])


def agiqa(folder):
    lines = [
        "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align",
        "AttnGAN_normal_000.jpg,statue of a man,,,,0.965602553,0.223270101,0.40889324,0.615607722",
        "xl2.2_normal_000.jpg,statue of a man,,,,4.0,0.5,3.1,0.5\n"
        'glide_normal_001.jpg,"a cat, asleep",,,,2.5,0.5,3,0.5',
    ]
    write_text(folder / "data.csv", "\r\n".join(lines))
    write_images(folder / "AGIQA-3K", ["AttnGAN_normal_000.jpg", "xl2.2_normal_000.jpg", "glide_normal_001.jpg"])


def agiqa_json(folder):
    rows = [{"image": f"xl2.2_normal_00{i}.jpg", "score": 1.25 * i} for i in (1, 2, 3)]
    write_text(folder / "agiqa_test.json", json.dumps(rows))
    write_images(folder / "images", [row["image"] for row in rows])


def livec(folder):
    trained = [f"t{i}.bmp" for i in range(1, 8)]
    rated = ["3.bmp", "879.JPG", "5.bmp"]
    (folder / "Data").mkdir(parents=True)
    savemat(folder / "Data/AllImages_release.mat", {"AllImages_release": cells(trained + rated)[:, None]})
    savemat(folder / "Data/AllMOS_release.mat", {"AllMOS_release": np.arange(10.0)[None] * 10})
    savemat(folder / "Data/AllStdDev_release.mat", {"AllStdDev_release": np.arange(10.0)[None]})
    write_images(folder / "Images", [*rated, *(f"trainingImages/{name}" for name in trained)])


def live(folder):
    folder.mkdir(parents=True, exist_ok=True)
    references = [f"ref{i % 29:02d}.bmp" for i in range(982)]
    scores = np.linspace(-2, 111, 982)
    originals = np.zeros(982)
    originals[:203] = 1
    savemat(
        folder / "dmos_realigned.mat",
        {"dmos_new": scores[None], "orgs": originals[None], "dmos_std": scores[None] * 0 + 6},
    )
    savemat(folder / "refnames_all.mat", {"refnames_all": cells(references)[None]})
    counts = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
    for kind, count in counts.items():
        write_images(folder / kind, [f"img{i}.bmp" for i in range(1, count + 1)])
    write_images(folder / "refimgs", ["ref00.bmp"])


CSIQ_FILES = [
    ("1600", "noise", 1, "awgn/1600.AWGN.1.png"),
    ("1600", "jpeg 2000", 2, "jpeg2000/1600.jpeg2000.2.png"),
    ("boston", "blur", 3, "blur/boston.BLUR.3.png"),
    ("boston", "contrast", 4, "contrast/boston.contrast.4.png"),
]


def csiq(folder):
    head = [None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    rows = [
        [None, None, None, int(ref) if ref.isdigit() else ref, 1, kind, level, 0.1, 0.25 * (level - 1)]
        for ref, kind, level, _ in CSIQ_FILES
    ]
    note = [None, "DMOS of CSIQ, by image"]
    write_sheet(folder / "csiq.DMOS.xlsx", [note, [None], [None], head, *rows], "all_by_image", other="all_by_dst")
    write_images(folder / "dst_imgs", [file for *_, file in CSIQ_FILES])
    write_images(folder / "src_imgs", ["1600.png", "boston.png"])


def csiq_text(folder):
    lines = [f"{file.split('/')[1]} {0.25 * (level - 1)}" for *_, level, file in CSIQ_FILES]
    write_text(folder / "csiq_label.txt", "\n".join(lines) + "\n")
    write_images(folder / "dst_imgs", [file for *_, file in CSIQ_FILES])


def csiq_one_folder(folder):
    csiq_text(folder)
    (folder / "dst_imgs").rename(folder / "unused")
    write_images(folder / "dst_imgs_all", [file.split("/")[1] for *_, file in CSIQ_FILES])


def tid(folder):
    names = [f"I{r:02d}_{k:02d}_{level}.bmp" for r in range(1, 11) for k in (1, 24) for level in (1, 5)]
    lines = [f"{9 * i / 39:.5f} {name}" for i, name in enumerate(names)]
    write_text(folder / "mos_with_names.txt", "\r\n".join(lines) + "\r\n")
    write_text(folder / "mos_std.txt", "\n".join("0.13013" for _ in names))
    on_disk = [name.lower() if i % 2 else name.replace(".bmp", ".BMP") for i, name in enumerate(names)]
    write_images(folder / "distorted_images", on_disk)
    write_images(folder / "reference_images", ["I01.BMP"])


def bid(folder):
    head = ["Image Number", "Average Subjective Grade", "std"]
    write_sheet(folder / "DatabaseGrades.xlsx", [head, [1, 5.0, 0.5], [2, 2.5, 0.4], [586, 0.0, 0.1]], "Plan1")
    write_images(folder / "ImageDatabase", [f"DatabaseImage{n:04d}.JPG" for n in (1, 2, 586)])


def biq(folder):
    train = [f"ss01 ({i}).jpg" for i in range(1, 21)]
    lines = [f"{name},{i / 20:.2f},," for i, name in enumerate(train)]
    write_text(folder / "Train (Images and MOS).csv", "\n".join(["Image Name,MOS,,", *lines, ",,,"]))
    write_text(folder / "Test (Images and MOS).csv", "Image Name,MOS\nss02 (752).jpg,0.5293\nss03 (1).jpg,1\n")
    write_images(folder / "Images", [*(name.replace(".jpg", ".JPG") for name in train[:2]), *train[2:]])
    write_images(folder / "Images", ["ss02 (752).jpg", "ss03 (1).jpg"])


LAYOUTS = {  # layout: dataset, published scores of the first rows, the same rows from 0 to 100
    koniq_sets: ("koniq10k", [77.3836206897, 68.7285714286], [77.3836206897, 68.7285714286]),
    koniq_distributions: ("koniq10k", [77.3836206897, 68.7285714286], [77.3836206897, 68.7285714286]),
    koniq_json: ("koniq10k", [77.4, 68.7], [77.4, 68.7]),
    spaq: ("spaq", [48.86, 62.5], [48.86, 62.5]),
    spaq_json: ("spaq", [49.86, 50.86], [49.86, 50.86]),
    kadid: ("kadid10k", [1.0, 1.1], [0, 2.5]),
    kadid_json: ("kadid10k", [4.0, 1.0], [75, 0]),
    agiqa: ("agiqa3k", [0.965602553, 4.0], [19.31205106, 80]),
    agiqa_json: ("agiqa3k", [1.25, 2.5], [25, 50]),
    livec: ("livec", [70, 80], [70, 80]),
    live: ("live", None, None),
    csiq: ("csiq", [0, 0.25, 0.5, 0.75], [100, 75, 50, 25]),
    csiq_text: ("csiq", [0, 0.25, 0.5, 0.75], [100, 75, 50, 25]),
    csiq_one_folder: ("csiq", [0, 0.25, 0.5, 0.75], [100, 75, 50, 25]),
    tid: ("tid2013", [0, 9 / 39], [0, 100 / 39]),
    bid: ("bid", [5, 2.5, 0], [100, 50, 0]),
    biq: ("biq2021", [0, 0.05], [0, 5]),
}
