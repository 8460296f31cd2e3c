// Filters and sorts the images of the album. Without it, the page shows all of them.
(() => {
  const album = document.querySelector(".album");
  if (!album) return;
  const form = album.querySelector("form");
  const list = album.querySelector(".album-images");
  const count = album.querySelector(".album-count");
  const images = [...list.children]; // in the order of the page
  const more = album.querySelector(".album-more");
  let limit = 24;
  let total = 0; // images of a cell of the confusion, of which the album may have some

  const matches = {
    true: (data, value) => data.true === value,
    predicted: (data, value) => data.predicted === value,
    outcome: (data, value) => data.outcome.startsWith(value),
    value: (data, value) => data.values.split(" ").includes(value),
  };
  const score = (image) => (image.dataset.score === "" ? NaN : Number(image.dataset.score));
  // A missing score stands last in both orders.
  const byScore = (sign) => (a, b) =>
    Number.isNaN(score(a)) - Number.isNaN(score(b)) || sign * (score(a) - score(b)) || 0;
  const byName = (key) => (a, b) => a.dataset[key].localeCompare(b.dataset[key]);
  const orders = {
    falling: byScore(-1),
    rising: byScore(1),
    true: byName("true"),
    predicted: byName("predicted"),
  };

  const update = () => {
    const chosen = [...new FormData(form)].filter(([, value]) => value !== "");
    const filters = chosen.filter(([name]) => name in matches);
    const order = orders[form.elements.order.value];
    const fits = (image) => filters.every(([name, value]) => matches[name](image.dataset, value));
    const fitting = (order ? [...images].sort(order) : images).filter(fits);
    const shown = fitting.slice(0, limit);
    for (const image of images) image.hidden = !shown.includes(image);
    list.prepend(...shown);
    more.hidden = shown.length === fitting.length;
    count.value = `${shown.length} of ${Math.max(total, fitting.length)} images shown`;
    if (total > fitting.length) count.value += `; the page holds ${fitting.length}`;
  };

  // A picture is stored once; later places show the same one.
  for (const later of document.querySelectorAll("img[data-of]")) {
    const first = document.getElementById(later.dataset.of);
    if (first) later.src = first.src;
  }
  form.hidden = false;
  form.addEventListener("change", () => { limit = 24; total = 0; update(); });
  more.addEventListener("click", () => { limit += 24; update(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => { total = 0; setTimeout(update); });
  // Show the images of a true class, a predicted class or both, errors first.
  const showOnly = (classes, images = 0) => {
    form.reset();
    for (const name of ["true", "predicted"]) {
      if (form.elements[name]) form.elements[name].value = classes[name] || "";
    }
    limit = 24;
    total = images;
    update();
  };
  for (const link of document.querySelectorAll("a[data-true]")) {
    link.addEventListener("click", () => showOnly(link.dataset));
  }
  // A link to an image shows all images with its true and predicted classes.
  const places = [...document.querySelectorAll(".place")];
  const showLike = (hash) => {
    const image = images.find(({ id }) => hash === `#${id}`);
    const place = places.find((place) => place.hash === hash);
    if (image) showOnly(image.dataset, Number(place?.dataset.total ?? 0));
    return image;
  };
  for (const place of places) {
    place.addEventListener("click", () => showLike(place.hash));
  }
  update(); // a browser may keep the choices of a page that is opened again
  showLike(location.hash)?.scrollIntoView();
})();
