// Classifies images in the browser, on LiteRT.js; nothing leaves the machine.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

const WASM = "node_modules/@litertjs/core/wasm/";
const MODEL = "../gns-w1-cifar10-android.tflite";
const CAMERA_PAUSE = 100; // milliseconds between two of its pictures

// LiteRT.js writes what it logs to the console's errors.
const complain = console.error.bind(console);
console.error = (...said) =>
  /^(INFO|WARNING):/.test(said[0]) ? console.debug(...said) : complain(...said);

const at = (id) => document.getElementById(id);
const canvas = at("image");
const context = canvas.getContext("2d", { willReadFrequently: true });
let network;
let film; // the camera's pictures, while it is on

function fail(text) {
  at("error").textContent = text;
}

// Names from the report of the export beside the file, else numbers.
async function classNames(path, count) {
  const numbers = [...Array(count).keys()].map(String);
  const answer = await fetch(path.replace(/\.tflite$/, ".json"));
  const names = answer.ok ? (await answer.json()).class_names : undefined;
  return names?.length === count ? names : numbers;
}

async function load(path) {
  const answer = await fetch(path);
  if (!answer.ok) {
    throw new Error(`No file at ${path}. Name one by ?model=../FILE.tflite`);
  }
  const data = new Uint8Array(await answer.arrayBuffer());
  await loadLiteRt(WASM);
  const refused = (type) =>
    new Error(
      `${path} takes ${type} pixels, the page gives uint8. Export with ` +
        "gnsmall export --target web --quantization int8.",
    );
  let model;
  try {
    model = await loadAndCompile(data, { accelerator: "wasm" });
  } catch (error) {
    throw /\bint8/i.test(error.message) ? refused("int8") : error;
  }
  const [input] = model.getInputDetails();
  const [output] = model.getOutputDetails();
  if (input.dtype !== "uint8") throw refused(input.dtype);
  const [, height, width] = input.shape; // and 1 channel for grey, else 3
  Object.assign(canvas, { height, width });
  const count = output.shape.at(-1);
  return { model, shape: [...input.shape], names: await classNames(path, count) };
}

// Draws the middle square of a picture in the network's size; what is
// transparent is over black, as in training, not over the picture before.
function draw(source, width, height) {
  const side = Math.min(width, height);
  context.fillStyle = "black";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(
    source,
    (width - side) / 2,
    (height - side) / 2,
    side,
    side,
    0,
    0,
    canvas.width,
    canvas.height,
  );
}

// As Pillow has it, which made the network's training images grey.
function grey([red, green, blue]) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

async function classify() {
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const channels = network.shape.at(-1);
  const pixels = new Uint8Array((data.length / 4) * channels);
  for (let from = 0, to = 0; from < data.length; from += 4, to += channels) {
    const colours = data.subarray(from, from + 3);
    pixels.set(channels === 1 ? [grey(colours)] : colours, to);
  }
  const began = performance.now();
  const input = Tensor.fromTypedArray(pixels, network.shape);
  const [output] = await network.model.run(input);
  const values = [...output.toTypedArray()];
  const milliseconds = performance.now() - began;
  input.delete();
  output.delete();
  show(values, milliseconds);
}

function show(values, milliseconds) {
  const whole = values.reduce((sum, value) => sum + value, 0) || 1;
  const rows = values
    .map((value, index) => [value / whole, network.names[index]])
    .sort(([one], [other]) => other - one)
    .map(([share, name]) => {
      const row = document.createElement("li");
      const percent = `${(100 * share).toFixed(1)} %`;
      for (const [tag, text] of [["span", name], ["i", ""], ["b", percent]]) {
        row.append(Object.assign(document.createElement(tag), { textContent: text }));
      }
      row.children[1].style.width = `${100 * share}%`;
      return row;
    });
  at("bars").replaceChildren(...rows);
  at("status").textContent = `${milliseconds.toFixed(1)} ms`;
  document.body.dataset.values = values.join(" ");
  document.body.dataset.first ??= String(Math.round(performance.now()));
  document.body.dataset.count = String(Number(document.body.dataset.count ?? 0) + 1);
}

async function classifyFile(file) {
  stopCamera();
  fail("");
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    return fail(`${file.name} is no image that this browser reads.`);
  }
  draw(picture, picture.width, picture.height);
  try {
    return await classify();
  } catch (error) {
    return fail(`The network did not run: ${error.message}`);
  }
}

function stopCamera() {
  film?.srcObject.getTracks().forEach((track) => track.stop());
  film = undefined;
  at("camera").textContent = "Use the camera";
}

async function toggleCamera() {
  if (film) return stopCamera();
  fail("");
  const video = document.createElement("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch {
    return fail("The camera was refused. Allow it for this page, or drop an image.");
  }
  film = video;
  at("camera").textContent = "Stop the camera";
  try {
    await video.play();
    while (film === video) {
      draw(video, video.videoWidth, video.videoHeight);
      await classify();
      await new Promise((next) => setTimeout(next, CAMERA_PAUSE));
    }
  } catch (error) {
    if (film === video) stopCamera();
    fail(`The network did not run: ${error.message}`);
  }
  return undefined;
}

try {
  const asked = new URLSearchParams(location.search).get("model");
  network = await load(asked ?? MODEL);
  at("status").textContent = "Ready: no image yet.";
  at("file").addEventListener("change", ({ target }) => {
    if (target.files.length) classifyFile(target.files[0]);
  });
  at("camera").addEventListener("click", toggleCamera);
  const drop = at("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      const [file] = event.dataTransfer?.files ?? [];
      if (kind === "drop" && file) classifyFile(file);
    });
  }
  document.body.dataset.ready = "yes";
} catch (error) {
  at("status").textContent = "";
  fail(error.message);
}
