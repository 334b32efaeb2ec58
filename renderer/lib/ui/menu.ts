import type { Component } from "svelte";

/** A row of a menu. */
export interface MenuItem {
  readonly label: string;
  readonly icon?: Component<{ size?: number | string }>;
  readonly keys?: string;
  readonly danger?: boolean;
  readonly disabled?: boolean;
  /** A line before it. */
  readonly separated?: boolean;
  run(): void;
}
