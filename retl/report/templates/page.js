(() => {
  "use strict";
  // The bar below the pointer or the finger tells its values.
  const tip = document.getElementById("tip");
  const show = (event) => {
    const bar = event.target.closest(".chart [data-says]");
    tip.hidden = !bar;
    if (!bar) return;
    tip.textContent = bar.dataset.says.replace(" · ", "\n").replaceAll(", ", "\n");
    const width = document.documentElement.clientWidth;
    const left = Math.min(event.clientX + 12, width - tip.offsetWidth - 8);
    const above = event.clientY - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : event.clientY + 18}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  // On paper nothing can be unfolded.
  const closed = () => [...document.querySelectorAll("details:not([open])")];
  let opened = [];
  addEventListener("beforeprint", () => { opened = closed(); opened.forEach((one) => { one.open = true; }); });
  addEventListener("afterprint", () => { opened.forEach((one) => { one.open = false; }); });
})();
